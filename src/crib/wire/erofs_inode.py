"""Inodes and extended attributes of the EROFS files that our own writer makes, checked to the last field.

Source: kernel ``fs/erofs/erofs_fs.h`` (the on-disk format). Pure: bytes come from a ``Window``.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, NamedTuple

from crib.wire.tar_member import printable

OPAQUE = b"trusted.overlay.opaque"
"""Marks a directory below which nothing of lower layers shows (kernel, filesystems/overlayfs)."""
CAPABILITY = b"security.capability"
INODE_SIZE = 64
SLOT = 32

_INODE = Struct("<HHHHQIIIIqII16s")
_PLAIN = 1 | 0 << 1
_INLINE = 1 | 2 << 1
_XATTR_HEADER = 12
_XATTR_ENTRY = Struct("<BBH")
_XATTR_PREFIXES = {1: b"user.", 4: b"trusted.", 6: b"security."}
_TARGET_MAX = 4096
_KINDS = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO))
_KIND = 0o170000
_DATA_KINDS = (stat.S_IFREG, stat.S_IFDIR)
_UNUSED = bytes(16)
_NO_DEVICE = 0, 0
_NOTHING: Mapping[bytes, bytes] = {}
_CHUNK = 1 << 16
_MAX_CHUNKS = 64


class ErofsError(ValueError):
    """The file is not one that our writer makes; the message says where."""


# A NamedTuple, not a frozen dataclass: a layer has tens of thousands.
class Inode(NamedTuple):
    """One inode. Sizes and offsets in bytes; ``offset`` is where a regular file's data begins in the file.

    ``links`` is the number of names that the writer counted. ``device`` is (major, minor) of a device node,
    ``target`` a symbolic link's, ``xattrs`` maps full names to values.
    """

    nid: int
    mode: int
    uid: int
    gid: int
    mtime: int
    mtime_nsec: int
    links: int
    size: int
    offset: int
    device: tuple[int, int]
    target: bytes
    xattrs: Mapping[bytes, bytes]

    @property
    def is_whiteout(self) -> bool:
        """Whether overlayfs hides the name in lower layers."""
        return stat.S_ISCHR(self.mode) and self.device == (0, 0)

    @property
    def is_opaque(self) -> bool:
        """Whether overlayfs shows nothing of lower layers in this directory."""
        return OPAQUE in self.xattrs


class Window:
    """A file's bytes through ``read_at(offset, size)``, bounded, with the last 4 MiB kept."""

    def __init__(self, read_at: Callable[[int, int], bytes], size: int) -> None:
        self._read_at = read_at
        self.size = size
        self._chunks: dict[int, bytes] = {}

    def unpack(self, shape: Struct, offset: int) -> tuple[Any, ...]:
        """The fields of ``shape`` at ``offset``; ErofsError when they are not all there."""
        chunk = self._chunks.get(offset // _CHUNK)
        start = offset % _CHUNK
        if chunk is not None and start + shape.size <= len(chunk):
            return shape.unpack_from(chunk, start)
        return shape.unpack(self.read(offset, shape.size))

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes; ErofsError when they are not all there."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ErofsError(f"{size} bytes at {offset} lie outside of the file of {self.size}")
        number, start = divmod(offset, _CHUNK)
        chunk = self._chunks.get(number) or self._load(number)
        if start + size <= _CHUNK:
            data = chunk[start : start + size]
        else:
            rest = range(number + 1, (offset + size - 1) // _CHUNK + 1)
            data = chunk[start:] + b"".join(self._chunks.get(each) or self._load(each) for each in rest)
            data = data[:size]
        if len(data) != size:
            raise ErofsError(f"the file ends before the {size} bytes at {offset}")
        return data

    def _load(self, number: int) -> bytes:
        if len(self._chunks) >= _MAX_CHUNKS:
            del self._chunks[next(iter(self._chunks))]
        offset = number * _CHUNK
        chunk = self._read_at(offset, min(_CHUNK, self.size - offset))
        self._chunks[number] = chunk
        return chunk


class InodeTable:
    """The inodes of one file; ``start`` is where slot 0 lies, ``block`` the block size (bytes)."""

    def __init__(self, window: Window, start: int, block: int) -> None:
        self._window = window
        self._start = start
        self._block = block

    def read(self, nid: int) -> Inode:
        """Inode number ``nid``, with the target of a symbolic link. ErofsError names the inode."""
        try:
            return self._read(nid)
        except ErofsError as error:
            raise ErofsError(f"inode {nid}: {error}") from error

    def _read(self, nid: int) -> Inode:
        fields = self._window.unpack(_INODE, self._start + nid * SLOT)
        layout, xattrs, mode, reserved, size, place, _, uid, gid, mtime, nsec, links, rest = fields
        if reserved or rest != _UNUSED or nsec >= 1_000_000_000 or not links:
            raise ErofsError(f"{nsec} nanoseconds, {links} links, or an unknown field is used")
        if layout == _PLAIN and not xattrs and size and mode & _KIND == stat.S_IFREG:
            offset = self._extent(stat.S_IFREG, place, size)
            values = nid, mode, uid, gid, mtime, nsec, links, size, offset, _NO_DEVICE, b"", _NOTHING
            # Most inodes are such files, and the keywords of a NamedTuple take longer than all of this.
            return tuple.__new__(Inode, values)
        return self._special(nid, fields)

    def _special(self, nid: int, fields: tuple[Any, ...]) -> Inode:
        """All but a file with data and without extended attributes."""
        layout, count, mode, _, size, place, _, uid, gid, mtime, nsec, links, _ = fields
        kind = mode & _KIND
        if layout not in (_PLAIN, _INLINE) or kind not in _KINDS:
            raise ErofsError(f"layout {layout:#x}, mode {mode:o} is not what our writer makes")
        if layout == _INLINE and kind != stat.S_IFLNK:
            raise ErofsError("only a symbolic link may be stored behind its inode")
        at = self._start + nid * SLOT
        end = at + INODE_SIZE
        xattrs = _NOTHING
        if count:
            length = _XATTR_HEADER + 4 * (count - 1)
            xattrs = _xattrs(self._window.read(end, length), kind)
            end += length
        offset, device, target = 0, _NO_DEVICE, b""
        if kind == stat.S_IFLNK:
            if layout == _INLINE and at // self._block != (end + size - 1) // self._block:
                raise ErofsError("a link target behind its inode leads into the next block")
            target = self._target(end if layout == _INLINE else place * self._block, size)
        elif kind in _DATA_KINDS:
            offset = self._extent(kind, place, size)
        elif size or (kind == stat.S_IFIFO and place):
            raise ErofsError(f"a device or fifo of {size} bytes")
        else:
            device = (place & 0xFFF00) >> 8, (place & 0xFF) | ((place >> 12) & 0xFFF00)
        return Inode(nid, mode, uid, gid, mtime, nsec, links, size, offset, device, target, xattrs)

    def _target(self, offset: int, size: int) -> bytes:
        if not 0 < size <= _TARGET_MAX:
            raise ErofsError(f"a link target of {size} bytes")
        target = self._window.read(offset, size)
        if b"\0" in target:
            raise ErofsError("a link target with a NUL byte")
        return target

    def _extent(self, kind: int, place: int, size: int) -> int:
        """Where the data is: that of files before the inodes, that of directories behind them."""
        if not size:
            if place or kind == stat.S_IFDIR:
                raise ErofsError("data without a size")
            return 0
        offset = place * self._block
        low, high = (4096, self._start) if kind == stat.S_IFREG else (self._start, self._window.size)
        if offset < low or offset + size > high:
            raise ErofsError(f"{size} bytes of data at {offset}, they must lie in {low} to {high}")
        return offset


def _xattrs(body: bytes, kind: int) -> dict[bytes, bytes]:
    if any(body[:_XATTR_HEADER]):
        raise ErofsError("shared extended attributes")
    found: dict[bytes, bytes] = {}
    position = _XATTR_HEADER
    while position < len(body):
        if position + _XATTR_ENTRY.size > len(body):
            raise ErofsError("an extended attribute is cut short")
        length, index, value_size = _XATTR_ENTRY.unpack_from(body, position)
        start = position + _XATTR_ENTRY.size + length
        end = start + value_size
        if end > len(body) or not length or index not in _XATTR_PREFIXES:
            raise ErofsError("an extended attribute is cut short, or of an unknown kind")
        name = _XATTR_PREFIXES[index] + body[start - length : start]
        value = body[start:end]
        if name in found or b"\0" in name or not _is_ours(name, value, kind):
            raise ErofsError(f"extended attribute {printable(name)} is not one that our writer makes")
        found[name] = value
        position = end + -end % 4
    if position != len(body) or not found:
        raise ErofsError("extended attributes end in the middle of one")
    return found


def _is_ours(name: bytes, value: bytes, kind: int) -> bool:
    if name == OPAQUE:
        return kind == stat.S_IFDIR and value == b"y"
    return name.startswith(b"user.") or name == CAPABILITY
