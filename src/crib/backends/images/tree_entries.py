"""The names of a layer's tree in their order, whichever way the layer is kept: an EROFS file, a directory.

Each name comes with a descriptor that has its data from `inode.offset` on, good until the next is asked for.
A directory is read without following anything in it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from crib.backends.images.unpacked.tree_digest import kept_xattrs
from crib.host import libc
from crib.wire.erofs_reader import MAX_DEPTH, Entry, ErofsImage, Inode

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_INSIDE = libc.RESOLVE_NO_XDEV | libc.RESOLVE_NO_SYMLINKS


def erofs_entries(path: str) -> Iterator[tuple[Entry, int]]:
    """Of an EROFS file that our writer made; ErofsError, OSError."""
    fd = os.open(path, _FILE)
    try:
        image = ErofsImage(lambda offset, size: os.pread(fd, size, offset), os.fstat(fd).st_size)
        for entry in image.walk():
            yield entry, fd
    finally:
        os.close(fd)


def directory_entries(path: str) -> Iterator[tuple[Entry, int]]:
    """Of a layer that was unpacked into a directory; OSError."""
    root = os.open(path, _DIRECTORY)
    linked: dict[int, bytes] = {}
    stack = [(root, b"", _names(root))]
    try:
        yield Entry(b"", b"", 0, _inode(os.fstat(root), b"", kept_xattrs(root)), None), root
        while stack:
            parent, above, names = stack[-1]
            if not names:
                os.close(parent)
                stack.pop()
                continue
            name = names.pop()
            inner = above + b"/" + name if above else name
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            first = None
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                known = linked.setdefault(status.st_ino, inner)
                first = known if known is not inner else None
            fd = _open(parent, name, status)
            if stat.S_ISDIR(status.st_mode):
                stack.append((fd, inner, _names(fd)))
                if len(stack) > MAX_DEPTH:
                    raise OSError(errno.ELOOP, f"more than {MAX_DEPTH} directories deep", os.fsdecode(inner))
            try:
                yield _entry(parent, inner, fd, status, first), fd
            finally:
                if fd >= 0 and not stat.S_ISDIR(status.st_mode):
                    os.close(fd)
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def _open(parent: int, name: bytes, status: os.stat_result) -> int:
    """A file or directory, opened for reading; -1 for all else: opening a device has effects."""
    if stat.S_ISDIR(status.st_mode):
        return libc.openat2(parent, os.fsdecode(name), _DIRECTORY, resolve=_INSIDE)
    if stat.S_ISREG(status.st_mode):
        return libc.openat2(parent, os.fsdecode(name), _FILE, resolve=_INSIDE)
    return -1


def _names(fd: int) -> list[bytes]:
    """The names in a directory, the first one last."""
    return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)


def _entry(parent: int, path: bytes, fd: int, status: os.stat_result, first: bytes | None) -> Entry:
    name = path.rpartition(b"/")[2]
    target = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else b""
    return Entry(
        path, name, path.count(b"/") + 1, _inode(status, target, kept_xattrs(fd) if fd >= 0 else {}), first
    )


def _inode(status: os.stat_result, target: bytes, xattrs: dict[bytes, bytes]) -> Inode:
    seconds, nanoseconds = divmod(status.st_mtime_ns, 1_000_000_000)
    device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return Inode(
        *(status.st_ino, status.st_mode, status.st_uid, status.st_gid, seconds, nanoseconds),
        *(status.st_nlink, status.st_size, 0, device, target, xattrs),
    )
