"""The changes of a checkpoint's root, made in the root of a new container; for the confined process.

That root is the process's own. Every name is made below the descriptor of its directory, which no link has
led to. The mounts of the container come later, and are checked as in any other root.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from crib.backends.oci.checkpoint_source import MAX_DELETED, FilePart, Unsound, plain_data, tar_members
from crib.backends.tar_nodes import make_node, times_of
from crib.host import libc
from crib.host.files import remove_tree
from crib.wire import checkpoint_archive as wire
from crib.wire.erofs_inode import CAPABILITY
from crib.wire.tar_member import Kind, Member, printable

MAX_CHANGES = 1_000_000
"""Names that are new or gone."""
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV
_OF_THE_RUNTIME = (b"dev", b"proc", b"sys")
"""Directories that it mounts something at. What lies below them was in none of the layers."""


def apply_changes(diff: FilePart, deleted: FilePart | None, root: int) -> None:
    """Make them in the directory `root`, which is this process's root too. Unsound, OSError."""
    _Changes(root).make(diff)
    if deleted is not None:
        _Changes(root).remove(deleted)


class _Changes:
    def __init__(self, root: int) -> None:
        self._root = root
        self._made: set[bytes] = set()
        self._times: list[tuple[bytes, Member]] = []

    def make(self, diff: FilePart) -> None:
        for member in tar_members(diff, MAX_CHANGES):
            parts = _parts(member.name)
            if not parts or parts[0] in _OF_THE_RUNTIME:
                continue
            with self._directory(parts[:-1]) as directory:
                self._change(member, diff, parts, directory)
        for path, member in reversed(self._times):  # making names in a directory changes its own times
            with self._directory(path.split(b"/")) as directory:
                os.utime(directory, ns=times_of(member))

    def remove(self, deleted: FilePart) -> None:
        """Names that the container had removed."""
        try:
            names = wire.decode_deleted(deleted.read(MAX_DELETED, wire.DELETED))
        except ValueError as error:
            raise Unsound(f"{wire.DELETED}: {error}") from error
        if len(names) > MAX_CHANGES:
            raise Unsound(f"{wire.DELETED} has more than {MAX_CHANGES} names")
        for name in names:
            parts = _parts(name.encode("utf-8", "surrogateescape"))
            if parts and parts[0] not in _OF_THE_RUNTIME:
                self._take_away(parts)

    def _change(self, member: Member, diff: FilePart, parts: list[bytes], directory: int) -> None:
        name, path = parts[-1], b"/".join(parts)
        if name == _OPAQUE:
            for inner in map(os.fsencode, os.listdir(directory)):
                if b"/".join((*parts[:-1], inner)) not in self._made:
                    self._take_away([*parts[:-1], inner])
            return
        if name.startswith(_WHITEOUT):
            self._take_away([*parts[:-1], name.removeprefix(_WHITEOUT)])
            return
        self._made.add(path)
        if member.kind is Kind.DIRECTORY:
            self._make_directory(member, parts, directory)
            return
        self._take_away(parts)
        if member.kind is Kind.FILE:
            _make_file(member, plain_data(member, diff), name, directory)
        elif member.kind is Kind.HARD_LINK:
            self._make_link(member, name, directory)
        elif not make_node(member, name, directory):
            raise Unsound(f"{printable(member.name)} is a {member.kind.value}")

    def _make_directory(self, member: Member, parts: list[bytes], directory: int) -> None:
        name = parts[-1]
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                self._take_away(parts)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode & 0o7777)
            _set_attributes(fd, member)
        finally:
            os.close(fd)
        self._times.append((b"/".join(parts), member))

    def _make_link(self, member: Member, name: bytes, directory: int) -> None:
        target = _parts(member.link)
        if not target or b"/".join(target) not in self._made:
            raise Unsound(f"{printable(member.name)} is a link to what is not in the archive before it")
        with self._directory(target[:-1]) as above:
            if not stat.S_ISREG(os.stat(target[-1], dir_fd=above, follow_symlinks=False).st_mode):
                raise Unsound(f"{printable(member.name)} is a hard link to what is no file")
            os.link(target[-1], name, src_dir_fd=above, dst_dir_fd=directory, follow_symlinks=False)

    def _take_away(self, parts: list[bytes]) -> None:
        """What is not there is fine. No link is followed: there is none on the way to its directory."""
        if parts[-1] in (b"", b".", b".."):
            raise Unsound("a whiteout names no file")
        with self._directory(parts[:-1], missing_ok=True) as directory:
            if directory >= 0:
                os.fchdir(directory)
                remove_tree(f"./{os.fsdecode(parts[-1])}")

    @contextlib.contextmanager
    def _directory(self, parts: list[bytes], *, missing_ok: bool = False) -> Iterator[int]:
        """A directory of the root, which is made where it is missing; -1 with `missing_ok`."""
        path = os.fsdecode(b"/".join(parts)) or "."
        try:
            fd = self._open(path)
        except FileNotFoundError:
            if missing_ok:
                yield -1
                return
            with self._directory(parts[:-1]) as above:
                os.mkdir(parts[-1], 0o755, dir_fd=above)
            fd = self._open(path)
        except OSError as error:
            raise Unsound(f"{path!r} leads through a link or what is no directory") from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        return libc.openat2(self._root, path, _DIRECTORY, resolve=_BENEATH)


def _parts(name: bytes) -> list[bytes]:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in name:
        raise Unsound(f"{printable(name)} leads out of the root")
    return parts


def _make_file(member: Member, data: FilePart, name: bytes, directory: int) -> None:
    fd = os.open(name, _NEW, 0o600, dir_fd=directory)
    try:
        for piece in data.pieces():
            left = memoryview(piece)
            while left:
                left = left[os.write(fd, left) :]
        os.fchown(fd, member.uid, member.gid)
        _set_attributes(fd, member)  # after the owner, whose change takes capabilities away
        os.fchmod(fd, member.mode & 0o7777)
        os.utime(fd, ns=times_of(member))
    finally:
        os.close(fd)


def _set_attributes(fd: int, member: Member) -> None:
    """Those that a container can set itself; the others belong to the host, or to overlayfs."""
    for key, value in (member.xattrs or {}).items():
        if key.startswith(b"user.") or key == CAPABILITY:
            os.setxattr(fd, key, value)
