"""Any tar gives the tree that GNU tar extracts, read from the EROFS file and unpacked into a directory."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from crib.backends.images.unpacked.tree_digest import digest_directory
from crib.backends.images.unpacked.unpack_main import unpack
from crib.backends.images.worker.layers import LayerClaims, LayerError, LayerOptions, write_layer
from crib.wire.erofs_reader import ErofsImage

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="making files of other owners needs root"),
]

Tree = dict[bytes, tuple[Any, ...]]

_part = st.one_of(
    st.sampled_from(["a", "b", "c", "link", "dir"]),
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.sampled_from(["n" * 255, "-x", "--checkpoint", " ", "\n", "*", "\\101", "é", "..."]),
)
_part = _part.filter(
    lambda name: name not in (".", "..") and ".wh." not in name and len(os.fsencode(name)) < 256
)
_names = st.lists(_part, min_size=1, max_size=4).map("/".join)
_targets = st.one_of(
    _names,
    st.lists(st.sampled_from(["..", "a", "dir", "b"]), min_size=1, max_size=4).map("/".join),
    st.just("/a"),
)
_KINDS = (
    *(tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
)


@st.composite
def _members(draw: st.DrawFn) -> list[tuple[tarfile.TarInfo, bytes]]:
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    files: list[str] = []
    for _ in range(draw(st.integers(1, 10))):
        info = tarfile.TarInfo(draw(_names))
        info.type = draw(st.sampled_from(_KINDS))
        if info.type == tarfile.LNKTYPE and not files:
            info.type = tarfile.REGTYPE
        info.mode = draw(st.one_of(st.sampled_from([0o644, 0o755]), st.integers(0, 0o7777)))
        info.uid, info.gid = draw(st.integers(0, 0xFFFFFFFE)), draw(st.integers(0, 0xFFFFFFFE))
        # What every file system can hold: ext4 keeps 34 bits of seconds.
        info.mtime = draw(st.integers(-(1 << 31), (1 << 33) - 1))
        data = b""
        if info.type == tarfile.REGTYPE:
            data = draw(
                st.one_of(st.binary(max_size=1200), st.integers(0, 140_000).map(lambda n: bytes(n) + b"e"))
            )
            info.pax_headers = draw(
                st.dictionaries(
                    st.sampled_from(["SCHILY.xattr.user.a", "SCHILY.xattr.user.bb"]),
                    st.just("value"),
                    max_size=2,
                )
            )
        elif info.type == tarfile.LNKTYPE:
            info.linkname = draw(st.sampled_from(files))
        elif info.type == tarfile.SYMTYPE:
            info.linkname = draw(_targets)
        elif info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = draw(st.integers(1, 4095)), draw(st.integers(0, 0o7777777 >> 1))
            info.devminor &= 0xFFFFF
        if info.type not in (tarfile.DIRTYPE, tarfile.SYMTYPE):
            files.append(info.name)
        info.size = len(data)
        members.append((info, data))
    return members


def pack(members: list[tuple[tarfile.TarInfo, bytes]], form: int) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


def of_directory(root: Path) -> Tree:
    """Each path with all that a program can see of it, the times apart."""
    found: Tree = {}
    links: dict[int, list[bytes]] = defaultdict(list)
    waiting = [(b"", os.fsencode(root))]
    while waiting:
        path, place = waiting.pop()
        status = os.lstat(place)
        kind = stat.S_IFMT(status.st_mode)
        content = b""
        if kind == stat.S_IFREG:
            content = hashlib.sha256(Path(os.fsdecode(place)).read_bytes()).digest()
        elif kind == stat.S_IFLNK:
            content = os.readlink(place)
        xattrs = {}
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            xattrs = {os.fsencode(name): os.getxattr(place, name) for name in os.listxattr(place)}
        found[path] = (
            *(status.st_mode, status.st_uid, status.st_gid),
            status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
            *(content, xattrs, status.st_mtime_ns),
        )
        if kind == stat.S_IFDIR:
            names = os.listdir(place)
            waiting += [(path + b"/" + name if path else name, place + b"/" + name) for name in names]
        elif status.st_nlink > 1:
            links[status.st_ino].append(path)
    found[b"/links"] = (sorted(sorted(group) for group in links.values()),)
    return found


def of_file(path: Path) -> Tree:
    """The same, from the EROFS file."""
    data = path.read_bytes()
    found: Tree = {}
    links: dict[int, list[bytes]] = defaultdict(list)
    for entry in ErofsImage(lambda offset, size: data[offset : offset + size], len(data)).walk():
        inode = entry.inode
        kind = stat.S_IFMT(inode.mode)
        mode = kind | 0o777 if kind == stat.S_IFLNK else inode.mode
        content = inode.target
        if kind == stat.S_IFREG:
            content = hashlib.sha256(data[inode.offset : inode.offset + inode.size]).digest()
        device = os.makedev(*inode.device) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        time = inode.mtime * 1_000_000_000 + inode.mtime_nsec
        found[entry.path] = mode, inode.uid, inode.gid, device, content, dict(inode.xattrs), time
        if kind != stat.S_IFDIR:
            links[inode.nid].append(entry.path)
    found[b"/links"] = (sorted(sorted(group) for group in links.values() if len(group) > 1),)
    return found


def unpacked(image: Path, root: Path) -> Tree:
    root.mkdir()
    source, target = os.open(image, os.O_RDONLY), os.open(root, os.O_RDONLY)
    try:
        written = unpack(source, target)
        assert digest_directory(target) == written.digest
    finally:
        os.close(source)
        os.close(target)
    return of_directory(root)


def confuses_tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bool:
    """Whether GNU tar may mistake a later file for what it kept in the place of a link that leads up."""
    up = [
        info.name
        for info, _ in members
        if info.type == tarfile.SYMTYPE
        and (info.linkname.startswith("/") or ".." in info.linkname.split("/"))
    ]
    names = [info.name for info, _ in members]
    return any(names.count(name) > 1 or any(each.startswith(name + "/") for each in names) for name in up)


def extract(tar: bytes, root: Path) -> bool:
    root.mkdir()
    os.chmod(root, 0o755)
    argv = [
        "tar",
        "-C",
        str(root),
        "--xattrs",
        "--xattrs-include=*",
        "--same-owner",
        "--delay-directory-restore",
    ]
    done = subprocess.run([*argv, "-xpf", "-"], input=tar, capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def explicit(tree: Tree, ours: Tree) -> Tree:
    """Without the times that no member said: of directories made on the way."""
    return {
        path: facts[:-1] if len(ours.get(path, ())) > 1 and ours[path][-1] == 0 else facts
        for path, facts in tree.items()
    }


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    _members(),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from([512, 4096]),
)
def test_any_tar_becomes_the_tree_that_gnu_tar_extracts(
    members: list[tuple[tarfile.TarInfo, bytes]], form: int, block: int
) -> None:
    tar = pack(members, form)
    place = Path(tempfile.mkdtemp(prefix="crib-oddities-"))
    try:
        image = place / "layer"
        try:
            write_layer([tar], str(image), LayerClaims(), LayerOptions(block_size=block))
        except LayerError:
            assume(False)
        ours = of_file(image)
        assert unpacked(image, place / "unpacked") == ours
        # tar refuses, or makes in another order, what replaces a directory or goes through a link to nowhere.
        assume(not confuses_tar(members))
        assume(extract(tar, place / "extracted"))
        theirs = of_directory(place / "extracted")
        assert explicit(theirs, ours) == explicit(ours, ours)
    finally:
        shutil.rmtree(place)
