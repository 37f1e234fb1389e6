"""A tree of files made of a tar; for the confined process of `archive_main`, whose root is the target.

What an archive says is not believed. Names stay below the target, also by links that the archive itself has
made; devices are refused; nothing is written over; sizes, counts and what a file unpacks to have limits.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from crib.backends.failures import why
from crib.backends.tar_nodes import make_node, times_of
from crib.backends.volumes.tree_export import KEPT_ATTRIBUTES
from crib.host import libc
from crib.wire.tar import TarReader
from crib.wire.tar_member import Kind, Member, printable
from crib.wire.tar_records import Extent

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_INSIDE = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV
_BLOCK = 256 << 10
_ZEROS = bytes(_BLOCK)
_LOOK_EVERY = 64 << 20
"""Bytes written between two looks at what is free."""
_UNUSUAL_MODE = 0o755
"""Of a directory that the archive does not have, although it has what is in it."""


class ArchiveRefused(ValueError):
    """The archive is not taken; the message says why, and names the member."""


@dataclass(slots=True)
class _Writing:
    """A file that is being written."""

    fd: int
    member: Member
    extents: Iterator[Extent]
    at: int = 0
    """Where the next byte goes."""
    left: int = 0
    """Bytes of the extent that are to come."""


class TreeMaker:
    """Takes the bytes of a tar, in pieces of any size, and makes the tree in the empty directory `root_fd`.

    Of the target's file system `min_free` bytes stay free, and `max_bytes` is what files may hold together.
    ArchiveRefused; OSError names the member.
    """

    def __init__(self, root_fd: int, min_free: int, max_bytes: int) -> None:
        self._root = root_fd
        self._min_free = min_free
        self._max_bytes = max_bytes
        self._reader = TarReader()
        self._received = 0
        self._members: deque[Member] = deque()
        self._directories: dict[bytes, Member] = {}
        self._open: _Writing | None = None
        self._unseen = _LOOK_EVERY
        self.written = 0
        """Bytes of files, without those that are zeros."""
        self.left_out = 0
        """Extended attributes that are not content, or that the file system does not take."""

    def take(self, data: bytes) -> None:
        """The next bytes of the archive."""
        self._members.extend(self._reader.receive_data(data))
        begin, view = self._received, memoryview(data)
        self._received += len(data)
        while self._members:
            member = self._members[0]
            if self._open is None:
                with _naming(member):
                    self._begin(member)
            end = member.offset + member.stored
            if self._open is not None:
                with _naming(member):
                    self._fill(self._open, view[max(member.offset - begin, 0) : max(end - begin, 0)])
            if self._received < end:
                return
            with _naming(member):
                self._finish()
            self._members.popleft()

    def end(self) -> None:
        """The archive is complete: directories get their owners, modes and times, the innermost first."""
        self._reader.end()
        if not self._received:
            raise ArchiveRefused("it is empty")
        for path in sorted(self._directories, reverse=True):
            member = self._directories[path]
            with _naming(member):
                fd = libc.openat2(self._root, os.fsdecode(path) or ".", _DIRECTORY, resolve=_INSIDE)
                try:
                    self._describe(fd, member)
                finally:
                    os.close(fd)

    def close(self) -> None:
        """Let go of a file that is half written."""
        if self._open is not None:
            os.close(self._open.fd)
            self._open = None

    def _begin(self, member: Member) -> None:
        path = _inside(member.name, member)
        if member.kind is Kind.DIRECTORY:
            if path and not self._is_directory(path):
                with self._parent(path) as (fd, name):
                    os.mkdir(name, 0o700, dir_fd=fd)
            self._directories[path] = member
            return
        if not path:
            raise ArchiveRefused("it would replace the directory itself")
        with self._parent(path) as (fd, name):
            if member.kind is Kind.FILE:
                extents = (Extent(0, member.size),) if member.sparse is None else member.sparse
                opened = os.open(name, _NEW, 0o600, dir_fd=fd)
                self._open = _Writing(opened, member, iter(extents))
            elif member.kind is Kind.HARD_LINK:
                self._link(member, fd, name)
            elif not make_node(member, name, fd):
                raise ArchiveRefused(f"it is a {member.kind.value}, and none is made here")

    def _link(self, member: Member, fd: int, name: bytes) -> None:
        """To what the archive has brought: whatever else there is, it is not in this directory."""
        target = _inside(member.link, member)
        with self._parent(target) as (target_fd, target_name):
            os.link(target_name, name, src_dir_fd=target_fd, dst_dir_fd=fd, follow_symlinks=False)

    def _fill(self, file: _Writing, data: memoryview) -> None:
        while data:
            if not file.left:  # there is one more: the reader has compared the map with what is stored
                file.at, file.left = next(file.extents)
            piece = data[: min(file.left, _BLOCK)]
            if piece[0] == 0 and bytes(piece) == _ZEROS[: len(piece)]:
                written = len(piece)  # a hole: bytes that nobody needs are not to fill a disk
            else:
                self._account(len(piece))
                written = os.pwrite(file.fd, piece, file.at)
            file.at += written
            file.left -= written
            data = data[written:]

    def _account(self, size: int) -> None:
        self.written += size
        if self.written > self._max_bytes:
            raise ArchiveRefused(f"the archive holds more than {self._max_bytes} bytes")
        self._unseen += size
        if self._unseen >= _LOOK_EVERY and self._min_free:
            self._unseen = 0
            status = os.fstatvfs(self._root)
            free = status.f_bavail * status.f_frsize
            if free - _LOOK_EVERY < self._min_free:
                raise OSError(errno.ENOSPC, f"{free} bytes are free and {self._min_free} must stay")

    def _finish(self) -> None:
        file, self._open = self._open, None
        if file is None:
            return
        try:
            os.ftruncate(file.fd, file.member.size)
            self._describe(file.fd, file.member)
        finally:
            os.close(file.fd)

    def _describe(self, fd: int, member: Member) -> None:
        """Owner first: changing it takes set-uid bits and file capabilities away."""
        os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, member.mode)
        for name, value in (member.xattrs or {}).items():
            if not os.fsdecode(name).startswith(KEPT_ATTRIBUTES):
                self.left_out += 1
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                self.left_out += 1
        os.utime(fd, ns=times_of(member))

    def _is_directory(self, path: bytes) -> bool:
        if path in self._directories:
            return True
        try:
            os.close(libc.openat2(self._root, os.fsdecode(path), _DIRECTORY, resolve=_INSIDE))
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The directory of a path, made where the archive has left it out, and the name in it."""
        above, _, name = path.rpartition(b"/")
        fd = self._reached(above)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def _reached(self, path: bytes) -> int:
        try:
            return libc.openat2(self._root, os.fsdecode(path) or ".", _DIRECTORY, resolve=_INSIDE)
        except FileNotFoundError:
            above, _, name = path.rpartition(b"/")
            fd = self._reached(above)
        try:
            os.mkdir(name, _UNUSUAL_MODE, dir_fd=fd)
            return os.open(name, _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _naming(member: Member) -> Iterator[None]:
    """What goes wrong names the member."""
    try:
        yield
    except ArchiveRefused as error:
        raise ArchiveRefused(f"member {printable(member.name)}: {error}") from error
    except OSError as error:
        text = f"member {printable(member.name)}: {why(error, os.fsdecode(member.name))}"
        if error.errno in (errno.EEXIST, errno.ELOOP, errno.EXDEV, errno.ENOTDIR, errno.ENOENT, errno.EISDIR):
            raise ArchiveRefused(text) from error
        raise OSError(error.errno, text) from error


def _inside(name: bytes, member: Member) -> bytes:
    """The path below the target, without `.` parts; empty for the target itself."""
    if name.startswith(b"/"):
        raise ArchiveRefused(f"path {printable(name)} is absolute")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ArchiveRefused(f"path {printable(name)} leads upwards")
    if not parts and member.kind is not Kind.DIRECTORY:
        raise ArchiveRefused(f"path {printable(name)} names nothing")
    return b"/".join(parts)
