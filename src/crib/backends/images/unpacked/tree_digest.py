"""One digest over a whole tree, whatever holds it: an EROFS file, or a directory that it was unpacked into.

It covers each name in rising order (a directory before what is in it) with type, mode, owner, device, link
target, the extended attributes that layers have, and the content. Times and sizes of directories are left
out: file systems round them differently.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from struct import Struct

from crib.host import libc
from crib.wire.erofs_inode import CAPABILITY, OPAQUE
from crib.wire.erofs_reader import MAX_DEPTH

PIECE = 1 << 16
"""Bytes that are read, compared with zero, hashed and written at a time."""
_NUMBERS = Struct(">IIIQ")
_LENGTH = Struct(">Q")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ZEROS = bytes(PIECE)


class TreeDigest:
    """Takes the names of a tree one by one."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(
        self, path: bytes, mode: int, owner: tuple[int, int], content: bytes, xattrs: Mapping[bytes, bytes]
    ) -> None:
        """One name. `content` is a file's `Content`, a link's target, or a device's number."""
        pieces = [path, content]
        for name in sorted(xattrs):
            pieces += (name, xattrs[name])
        self._hash.update(_NUMBERS.pack(mode, *owner, len(pieces)))
        self._hash.update(b"".join(_LENGTH.pack(len(piece)) + piece for piece in pieces))

    def add_link(self, path: bytes, first: bytes) -> None:
        """Another name of what came before as `first`."""
        self.add(path, 0, (0, 0), first, {})

    def text(self) -> str:
        """`sha256:` and the hex digest."""
        return f"sha256:{self._hash.hexdigest()}"


def device_content(major: int, minor: int) -> bytes:
    """What stands for the content of a device."""
    return b"%d:%d" % (major, minor)


class Content:
    """The digest of one file's data: of all its pieces that are not zero, where they are, and the size.

    So a hole costs nothing, and is the same as zeros that are stored.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, offset: int, piece: bytes) -> None:
        """A piece as `pieces` gives it."""
        self._hash.update(_LENGTH.pack(offset))
        self._hash.update(piece)

    def digest(self, size: int) -> bytes:
        """The digest of a file of so many bytes."""
        self._hash.update(_LENGTH.pack(size))
        return self._hash.digest()


def pieces(fd: int, start: int, size: int, *, holes: bool) -> Iterator[tuple[int, bytes]]:
    """The pieces of `size` bytes from `start` on that are not all zero, each with its offset from there.

    `holes` says whether the open file may have some, which are skipped. EIO when the file ends before.
    """
    position = 0
    while position < size:
        if holes:
            try:
                data = os.lseek(fd, start + position, os.SEEK_DATA) - start
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            if data >= size:
                return
            position = max(position, data // PIECE * PIECE)
        wanted = min(PIECE, size - position)
        piece = os.pread(fd, wanted, start + position)
        if len(piece) != wanted:
            raise OSError(errno.EIO, f"ends before its byte {start + position + wanted}")
        if not _ZEROS.startswith(piece):
            yield position, piece
        position += wanted


def has_holes(status: os.stat_result) -> bool:
    """Whether less is allocated for a file than its size."""
    return status.st_blocks * 512 < status.st_size


def kept_xattrs(fd: int) -> dict[bytes, bytes]:
    """The attributes of an open file or directory that belong to a layer; a host may add its own."""
    try:
        names = [os.fsencode(name) for name in os.listxattr(fd)]
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {
        name: os.getxattr(fd, name)
        for name in names
        if name.startswith(b"user.") or name in (CAPABILITY, OPAQUE)
    }


def digest_directory(root_fd: int) -> str:
    """The digest of the tree in an open directory, which is read only and never left. Blocks for long.

    OSError when something cannot be read, or lies deeper than any layer's tree.
    """
    return _Walk(root_fd).run()


class _Walk:
    def __init__(self, root_fd: int) -> None:
        self._root = root_fd
        self._digest = TreeDigest()
        self._linked: dict[int, bytes] = {}

    def run(self) -> str:
        self._add_open(b"", self._root, os.fstat(self._root))
        stack = [(os.dup(self._root), b"", _names(self._root))]
        try:
            while stack:
                fd, above, names = stack[-1]
                if not names:
                    os.close(fd)
                    stack.pop()
                    continue
                name = names.pop()
                path = above + b"/" + name if above else name
                if (inner := self._visit(fd, name, path)) is not None:
                    stack.append((inner, path, _names(inner)))
                    if len(stack) > MAX_DEPTH:
                        raise OSError(
                            errno.ELOOP, f"more than {MAX_DEPTH} directories deep", os.fsdecode(path)
                        )
        finally:
            for fd, _, _ in stack:
                os.close(fd)
        return self._digest.text()

    def _visit(self, parent: int, name: bytes, path: bytes) -> int | None:
        """Add one name; a directory is returned open."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            fd = libc.openat2(
                parent, os.fsdecode(name), _DIRECTORY, resolve=libc.RESOLVE_NO_XDEV | libc.RESOLVE_NO_SYMLINKS
            )
            self._add_open(path, fd, status)
            return fd
        if status.st_nlink > 1:
            first = self._linked.setdefault(status.st_ino, path)
            if first is not path:
                self._digest.add_link(path, first)
                return None
        if kind == stat.S_IFREG:
            fd = os.open(name, _FILE, dir_fd=parent)
            try:
                self._add_open(path, fd, status)
            finally:
                os.close(fd)
        elif kind == stat.S_IFLNK:
            self._add(path, status, os.readlink(name, dir_fd=parent), {})
        else:
            content = device_content(os.major(status.st_rdev), os.minor(status.st_rdev))
            self._add(path, status, content, {})
        return None

    def _add_open(self, path: bytes, fd: int, status: os.stat_result) -> None:
        content = b""
        if stat.S_ISREG(status.st_mode):
            taken = Content()
            for offset, piece in pieces(fd, 0, status.st_size, holes=has_holes(status)):
                taken.add(offset, piece)
            content = taken.digest(status.st_size)
        self._add(path, status, content, kept_xattrs(fd))

    def _add(
        self, path: bytes, status: os.stat_result, content: bytes, xattrs: Mapping[bytes, bytes]
    ) -> None:
        self._digest.add(path, status.st_mode, (status.st_uid, status.st_gid), content, xattrs)


def _names(fd: int) -> list[bytes]:
    """The names in a directory, the first one last."""
    return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
