"""Layers mounted in each way: the tree is what GNU tar extracts, overlayfs understands the whiteouts."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import io
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from crib.backends.images import mounts as layer_mounts
from crib.backends.images.unpacked.directories import DirectoryLayers
from crib.backends.images.worker.layers import LayerClaims, LayerOptions, write_layer
from crib.host.mounts import unmount
from crib.model.facts import LayerMounting
from crib.model.ids import Digest
from crib.model.paths import Paths
from crib.wire.erofs_reader import ErofsError, ErofsImage
from tests.fuzz.fuzz_erofs import edited, layer_file

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

METHODS = ("file", "loop", "directory")

_libc = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY = 1
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@pytest.fixture
def mounts() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@contextmanager
def mounted(kind: str, source: str, target: Path, data: str = "") -> Iterator[Path]:
    target.mkdir(parents=True, exist_ok=True)
    flags = _MS_RDONLY if kind == "erofs" else 0
    if _libc.mount(source.encode(), str(target).encode(), kind.encode(), flags, data.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source)
    try:
        yield target
    finally:
        assert _libc.umount2(str(target).encode(), 0) == 0


@contextmanager
def on_loop(image: Path) -> Iterator[str]:
    argv = ["losetup", "--find", "--show", "--read-only", str(image)]
    device = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=20)


def unpacked(image: Path) -> Path:
    """The layer as a directory, as hosts without EROFS have it."""
    data = image.with_name(f"{image.name}-data")
    paths = Paths(str(data), str(image.with_name(f"{image.name}-state")))
    digest = Digest("sha256:" + "ab" * 32)
    for path in (paths.layers, paths.containers):
        os.makedirs(path)
    os.link(image, paths.layer_file(digest))
    layers = DirectoryLayers(paths)

    async def unpack() -> str:
        await layers.unpack(digest)
        return await layers.check(digest)

    assert asyncio.run(unpack()) == ""
    return Path(paths.layer_directory(digest))


def mount_layer(stack: ExitStack, image: Path, target: Path, how: str = "file") -> Path:
    if how == "directory":
        target.mkdir()
        layer_mounts.mount_layer(str(unpacked(image)), str(target), LayerMounting("directory", 512, False))
        stack.callback(unmount, str(target))
        return target
    if how == "loop":
        return stack.enter_context(mounted("erofs", stack.enter_context(on_loop(image)), target))
    try:
        return stack.enter_context(mounted("erofs", str(image), target))
    except OSError as error:
        pytest.skip(f"no file-backed EROFS mount here: {error}")


def make_tree(root: Path) -> None:
    """Everything that a layer can hold, with sizes around the block sizes."""
    dice = random.Random(7)
    for number, size in enumerate([0, 1, 511, 512, 513, 4095, 4096, 4097, 100_000, 3_000_000]):
        (root / f"size{number}").write_bytes(dice.randbytes(size))
        os.chmod(root / f"size{number}", dice.choice([0o644, 0o4755, 0o2711, 0o600, 0o0]))
    wide = root / "wide"
    wide.mkdir(mode=0o1777)
    os.chmod(wide, 0o1777)
    for number in range(900):
        (wide / f"{number:03d}-{'n' * (number % 200)}").write_bytes(b"%d" % number)
    for name in ("!before-dots", ".hidden", "...", "ümlaut", "with space", "a\nb", "\udcff\udcfe"):
        (root / name).write_text("odd name")
    deep = root / "/".join(["deep"] * 60)
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("x")
    (root / "empty").mkdir()
    os.symlink("wide/000-", root / "short")
    os.symlink("t" * 300, root / "long")
    os.symlink("t" * 700, root / "longer-than-a-small-block")
    os.symlink("/" + "t/" * 1900, root / "longest")
    os.link(root / "size5", root / "wide" / "linked")
    os.link(root / "size5", root / "zz-linked-too")
    os.link(root / "short", root / "linked-symlink")
    os.mkfifo(root / "fifo", 0o622)
    os.mknod(root / "char", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o660, os.makedev(259, 70001))
    os.chown(root / "size2", 1234, 4_000_000_000)
    os.chown(root / "short", 12, 34, follow_symlinks=False)
    os.setxattr(root / "size3", "user.one", b"1")
    os.setxattr(root / "size3", "user.large", b"v" * 900)
    os.setxattr(root / "size4", "security.capability", _CAPABILITY)
    os.setxattr(root / "empty", "user.dir", b"")
    with (root / "sparse").open("wb") as file:
        for number in range(40):
            file.seek(number * 50_000)
            file.write(b"data%d" % number)
        file.truncate(5_000_000)
    os.utime(root / "size1", ns=(0, 1_234_567_890_123_456_789))
    os.utime(root / "size2", ns=(0, -1_500_000_000))
    os.utime(root / "short", ns=(0, 86_400_000_000_000), follow_symlinks=False)


def describe(root: Path) -> dict[str, object]:
    """Each name with all that a program could see of it; hard links as the first name of their inode."""
    found: dict[str, object] = {}
    inodes: dict[tuple[int, int], str] = {}
    for directory, names, files in os.walk(root):
        names.sort()
        for name in [".", *names, *files] if directory == str(root) else [*names, *files]:
            path = os.path.join(directory, name)
            shown = os.path.relpath(path, root)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            found[shown] = (
                oct(status.st_mode),
                (status.st_uid, status.st_gid),
                status.st_mtime_ns,
                status.st_nlink if kind != stat.S_IFDIR else 0,
                status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
                status.st_size if kind != stat.S_IFDIR else 0,
                os.readlink(path) if kind == stat.S_IFLNK else "",
                hashlib.sha256(Path(path).read_bytes()).hexdigest() if kind == stat.S_IFREG else "",
                {
                    attribute: os.getxattr(path, attribute, follow_symlinks=False)
                    for attribute in os.listxattr(path, follow_symlinks=False)
                },
            )
            inodes.setdefault((status.st_dev, status.st_ino), shown)
    links: dict[tuple[int, int], list[str]] = {}
    for shown in found:
        status = os.lstat(root / shown)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            links.setdefault((status.st_dev, status.st_ino), []).append(shown)
    found["hard links"] = sorted(sorted(group) for group in links.values())
    return found


def gnu_tar(root: Path, *options: str) -> bytes:
    argv = ["tar", "-C", str(root), "--sort=name", *options, "-cf", "-", "."]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=60).stdout


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("block", [512, 4096])
@pytest.mark.parametrize(
    "options",
    [
        ("--format=posix", "--xattrs", "--xattrs-include=*", "-S", "--hole-detection=raw"),
        ("--format=posix", "--xattrs", "--xattrs-include=*", "-S", "--sparse-version=0.1"),
        ("--format=gnu", "-S"),
    ],
    ids=["pax", "pax-sparse-0.1", "gnu"],
)
def test_a_mounted_layer_is_what_tar_extracts(
    tmp_path: Path, mounts: ExitStack, block: int, options: tuple[str, ...], how: str
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_tree(tree)
    tar = gnu_tar(tree, *options)
    extracted = tmp_path / "extracted"
    extracted.mkdir()
    argv = ["tar", "-C", str(extracted), "--xattrs", "--xattrs-include=*", "--same-owner", "-xpf", "-"]
    subprocess.run(argv, input=tar, check=True, timeout=60)
    image = tmp_path / "layer"
    facts = write_layer([tar], str(image), LayerClaims(), LayerOptions(block_size=block))
    mount = mount_layer(mounts, image, tmp_path / "mount", how)
    expected = describe(extracted)
    seen = describe(mount)
    assert seen.keys() == expected.keys()
    for name, facts_of_it in expected.items():
        assert seen[name] == facts_of_it, name
    assert facts.inodes == len({os.lstat(mount / name).st_ino for name in seen if name != "hard links"})
    for name in ("wide", "."):
        listed = os.listdir(mount / name)
        assert len(listed) == len(set(listed)) == len(os.listdir(extracted / name))
    argv = ["tar", "-C", str(mount), "--diff", "-f", "-"]
    difference = subprocess.run(argv, input=tar, capture_output=True, timeout=60, check=False)
    assert (difference.returncode, difference.stdout) == (0, b"")


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def layer(path: Path, block: int, *infos: tarfile.TarInfo) -> Path:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for info in infos:
            data = info.name.encode() if info.isreg() and ".wh." not in info.name else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    write_layer([output.getvalue()], str(path), LayerClaims(), LayerOptions(block_size=block))
    return path


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("block", [512, 4096])
def test_overlayfs_hides_what_whiteouts_and_opaque_directories_hide(
    tmp_path: Path, mounts: ExitStack, block: int, how: str
) -> None:
    lower = layer(
        tmp_path / "lower.img",
        block,
        *(entry(f"{directory}/{name}") for directory in ("keep", "opaque", "remade") for name in "abc"),
        entry("gone-file"),
        entry("gone-dir/x"),
        entry("replaced/x"),
        entry("merged/low"),
    )
    upper = layer(
        tmp_path / "upper.img",
        block,
        entry("keep/.wh.b"),
        entry("opaque", tarfile.DIRTYPE),
        entry("opaque/.wh..wh..opq"),
        entry("opaque/new"),
        entry(".wh.remade"),
        entry("remade", tarfile.DIRTYPE),
        entry("remade/new"),
        entry(".wh.gone-file"),
        entry(".wh.gone-dir"),
        entry("replaced", tarfile.SYMTYPE, linkname="keep"),
        entry("merged/high"),
        entry(".wh..wh.plnk", tarfile.DIRTYPE),
    )
    low = mount_layer(mounts, lower, tmp_path / "low", how)
    high = mount_layer(mounts, upper, tmp_path / "high", how)
    for name in ("up", "work"):
        (tmp_path / name).mkdir()
    data = f"lowerdir={high}:{low},upperdir={tmp_path / 'up'},workdir={tmp_path / 'work'}"
    root = mounts.enter_context(mounted("overlay", "overlay", tmp_path / "root", data))
    assert sorted(os.listdir(root)) == ["keep", "merged", "opaque", "remade", "replaced"]
    assert sorted(os.listdir(root / "keep")) == ["a", "c"]
    assert os.listdir(root / "opaque") == ["new"]
    assert os.listdir(root / "remade") == ["new"]
    assert sorted(os.listdir(root / "merged")) == ["high", "low"]
    assert os.readlink(root / "replaced") == "keep"
    assert (root / "keep" / "a").read_text() == "keep/a"
    (root / "keep" / "a").write_text("written")
    assert (root / "replaced" / "a").read_text() == "written"
    os.unlink(root / "merged" / "low")
    assert os.listdir(root / "merged") == ["high"]


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("block", [512, 4096])
def test_an_empty_layer_and_one_without_parents_mount(
    tmp_path: Path, mounts: ExitStack, block: int, how: str
) -> None:
    write_layer([bytes(1024)], str(tmp_path / "empty"), LayerClaims(), LayerOptions(block_size=block))
    empty = mount_layer(mounts, tmp_path / "empty", tmp_path / "m1", how)
    assert os.listdir(empty) == []
    assert stat.S_IMODE(empty.stat().st_mode) == 0o755
    assert empty.stat().st_ino != 0
    other = mount_layer(mounts, layer(tmp_path / "other", block, entry("a/b/c")), tmp_path / "m2", how)
    assert (other / "a/b/c").read_text() == "a/b/c"
    assert (other / "a").stat().st_nlink == 3


def test_fsck_finds_nothing_wrong(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_tree(tree)
    tar = gnu_tar(tree, "--format=posix", "--xattrs", "--xattrs-include=*", "-S")
    # erofs-utils before 1.6 reads blocks of 4096 bytes only.
    write_layer([tar], str(tmp_path / "layer"), LayerClaims(), LayerOptions(block_size=4096))
    try:
        checked = subprocess.run(
            ["fsck.erofs", "--extract", str(tmp_path / "layer")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("fsck.erofs is not installed")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(("how", "block"), [("file", 512), ("file", 4096), ("loop", 512), ("directory", 512)])
def test_a_file_beyond_4_gib_reads_at_its_end(
    tmp_path: Path, mounts: ExitStack, block: int, how: str
) -> None:
    info = entry("big")
    info.pax_headers = {"GNU.sparse.map": f"{5 << 30},3", "GNU.sparse.size": str((5 << 30) + 3)}
    info.size = 3
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"end"))
    image = tmp_path / "layer"
    write_layer([output.getvalue()], str(image), LayerClaims(), LayerOptions(block_size=block))
    assert image.stat().st_blocks * 512 < 1 << 20
    mount = mount_layer(mounts, image, tmp_path / "mount", how)
    assert (mount / "big").stat().st_blocks * 512 < 1 << 20 or how != "directory"
    with (mount / "big").open("rb") as file:
        file.seek(-5, os.SEEK_END)
        assert (file.tell(), file.read()) == ((5 << 30) - 2, b"\0\0end")


@pytest.mark.parametrize("block", [512, 4096])
def test_a_layer_with_odd_bytes_that_is_not_refused_mounts_and_reads(block: int, tmp_path: Path) -> None:
    dice = random.Random(block)
    good = layer_file(block)
    image, target = tmp_path / "image", tmp_path / "target"
    passed = 0
    while passed < 40:
        content = edited(good, dice.randbytes(4 * dice.choice([1, 1, 2, 3])))
        try:
            ErofsImage(lambda offset, size: content[offset : offset + size], len(content)).check()  # noqa: B023
        except ErofsError:
            continue
        passed += 1
        image.unlink(missing_ok=True)
        image.write_bytes(content)
        with ExitStack() as stack:
            # EUCLEAN or EIO, if the kernel found something in it that it does not take.
            assert describe(mount_layer(stack, image, target))
