"""A tree of files as a tar; for the confined process of `archive_main`, which sees nothing but the tree.

Names come in rising order, so the same tree gives the same bytes. Sockets and devices are left out: they are
of no use elsewhere. Programs may go on writing meanwhile: a file that becomes shorter while it is read ends
in zeros, and one that is gone is left out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from crib.host import libc
from crib.wire.tar_member import MAX_XATTR_BYTES, MAX_XATTRS, Kind, Member
from crib.wire.tar_records import Extent
from crib.wire.tar_writer import END, member_header, padding, sparse_header

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_INSIDE = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_MAX_EXTENTS = 20_000
"""Of a file with holes: a map of more would be longer than readers take."""
_LEAST_HOLES = 64 << 10
"""Bytes of holes in a file that are worth a map."""
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV))
"""What is said of a name that is another thing than a moment ago, or a mount."""
KEPT_ATTRIBUTES = ("user.", "system.posix_acl_", "security.capability")
"""Extended attributes that are content; the others belong to the kernel or to the host's security modules."""
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
}


class TreeTar:
    """The tar of the tree below a directory; `write` takes its bytes in order."""

    def __init__(self, root_fd: int, write: Callable[[bytes], object]) -> None:
        self._root = root_fd
        self._write = write
        self._links: dict[tuple[int, int], bytes] = {}
        self.content = 0
        """Bytes of files that were written."""
        self.left_out = 0
        """Sockets, devices, and what was gone when it was to be read."""

    def run(self) -> None:
        """OSError names the path that cannot be read."""
        self._write(member_header(self._member(b".", os.fstat(self._root), self._root)))
        # What is in a directory comes right behind it: tar(1) gives it its times when it has left it.
        waiting = self._inside(b"")
        while waiting:
            path = waiting.pop()
            try:
                if self._entry(path):
                    waiting += self._inside(path)
            except OSError as error:
                if error.errno not in _GONE:
                    error.filename = path
                    raise
                self.left_out += 1
        self._write(END)

    def _inside(self, directory: bytes) -> list[bytes]:
        """The paths in a directory, the last first."""
        fd = self._reached(directory)
        try:
            names = sorted((os.fsencode(name) for name in os.listdir(fd)), reverse=True)
        finally:
            os.close(fd)
        return [directory + b"/" + name if directory else name for name in names]

    def _reached(self, directory: bytes) -> int:
        return libc.openat2(self._root, os.fsdecode(directory) or ".", _DIRECTORY, resolve=_INSIDE)

    def _entry(self, path: bytes) -> bool:
        """Write one name; whether it is a directory."""
        above, _, name = path.rpartition(b"/")
        directory = self._reached(above)
        try:
            return self._named(directory, name, path)
        finally:
            os.close(directory)

    def _named(self, directory: int, name: bytes, path: bytes) -> bool:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            self.left_out += 1
            return False
        key = found.st_dev, found.st_ino
        if (first := self._links.get(key)) is not None:
            self._write(member_header(_plain(path, Kind.HARD_LINK, found)._replace(link=first)))
            return False
        if kind is Kind.SYMLINK:
            member = _plain(path, kind, found)._replace(link=os.readlink(name, dir_fd=directory))
            self._write(member_header(member))
        elif kind is Kind.FIFO:
            self._write(member_header(_plain(path, kind, found)))
        else:
            flags = _FILE if kind is Kind.FILE else _DIRECTORY
            fd = libc.openat2(directory, os.fsdecode(name), flags, resolve=_INSIDE)
            try:
                self._opened(fd, path)
            finally:
                os.close(fd)
        if found.st_nlink > 1 and kind is not Kind.DIRECTORY:
            self._links[key] = path
        return kind is Kind.DIRECTORY

    def _opened(self, fd: int, path: bytes) -> None:
        found = os.fstat(fd)
        member = self._member(path, found, fd)
        if not stat.S_ISREG(found.st_mode):
            self._write(member_header(member))
            return
        extents = _extents(fd, found)
        if extents is None:
            self._write(member_header(member))
            self._content(fd, Extent(0, member.size))
            self._write(bytes(padding(member.size)))
            return
        self._write(sparse_header(member._replace(sparse=extents)))
        for extent in extents:
            self._content(fd, extent)
        self._write(bytes(padding(sum(extent.length for extent in extents))))

    def _content(self, fd: int, extent: Extent) -> None:
        at, end = extent.offset, extent.offset + extent.length
        while at < end:
            piece = os.pread(fd, min(_PIECE, end - at), at) or _ZEROS[: end - at]
            self._write(piece)
            self.content += len(piece)
            at += len(piece)

    def _member(self, path: bytes, found: os.stat_result, fd: int) -> Member:
        kind = Kind.FILE if stat.S_ISREG(found.st_mode) else Kind.DIRECTORY
        size = found.st_size if kind is Kind.FILE else 0
        return _plain(path, kind, found)._replace(size=size, xattrs=_attributes(fd))


def _plain(path: bytes, kind: Kind, found: os.stat_result) -> Member:
    seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
    owner = found.st_uid, found.st_gid
    return Member(path, kind, stat.S_IMODE(found.st_mode), *owner, seconds, nanoseconds, 0, 0, 0)


def _attributes(fd: int) -> dict[bytes, bytes]:
    kept = {}
    for name in os.listxattr(fd):
        if name.startswith(KEPT_ATTRIBUTES):
            try:
                kept[os.fsencode(name)] = os.getxattr(fd, name)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
    size = sum(len(name) + len(value) for name, value in kept.items())
    if len(kept) > MAX_XATTRS or size > MAX_XATTR_BYTES:
        raise OSError(errno.E2BIG, f"it has {len(kept)} extended attributes of {size} bytes")
    return kept


def _extents(fd: int, found: os.stat_result) -> tuple[Extent, ...] | None:
    """Where a file has data; None for a file that is stored as a whole."""
    if found.st_size - found.st_blocks * 512 < _LEAST_HOLES:
        return None
    extents: list[Extent] = []
    at = 0
    while at < found.st_size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            at = min(os.lseek(fd, begin, os.SEEK_HOLE), found.st_size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data
                break
            return None
        if at > begin:
            extents.append(Extent(begin, at - begin))
        if len(extents) > _MAX_EXTENTS:
            return None
    return tuple(extents)
