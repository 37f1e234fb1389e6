"""Writing EROFS metadata: a tree of nodes becomes inodes, directory blocks and a superblock.

The data of regular files is not touched: a file is FLAT_PLAIN and its inode points at the block where the
data already is. Pure: the caller puts ``Metadata.body`` at ``Metadata.offset`` and the superblock at 1024,
last, so that a torn file never mounts. The same tree gives the same bytes.

Source: kernel ``Documentation/filesystems/erofs.rst`` and ``fs/erofs/erofs_fs.h`` (the on-disk format).
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from struct import Struct

from crib.wire.erofs_tree import Inode, LayoutError
from crib.wire.tar_member import printable

SUPERBLOCK_OFFSET = 1024
DATA_OFFSET = 4096
"""Where data may begin in a layer's file: behind the superblock, for every block size."""
BLOCK_SIZES = (512, 4096)

_MAGIC = 0xE0F5E1E2
_FEATURE_COMPAT_MTIME = 0x2
# Checksum, epoch, uuid, volume name and all incompatible features are zero.
_SUPERBLOCK = Struct("<I4xIBxHQ12xII84x")
_INODE = Struct("<HHHHQIIIIqII16x")
_DIRENT = Struct("<QHBx")
_EXTENDED = 1
_FLAT_PLAIN = 0 << 1
_FLAT_INLINE = 2 << 1
_SLOT = 32
_ROOT_SLOTS = 2
_XATTR_HEADER = bytes(12)
_XATTR_ENTRY = Struct("<BBH")
_XATTR_INDEXES = {b"user": 1, b"trusted": 4, b"security": 6}
_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What makes a file with data in it an EROFS image: ``body`` belongs at ``offset`` (bytes)."""

    offset: int
    body: bytes
    superblock: bytes
    inodes: int

    @property
    def file_size(self) -> int:
        """The size of the whole image in bytes, a multiple of 4096."""
        return self.offset + len(self.body)


def metadata(root: Inode, offset: int, block_size: int) -> Metadata:
    """The metadata of the tree below ``root``, to be put at ``offset`` (a multiple of 4096, behind all data).

    Raises LayoutError for what the format cannot hold (an xattr too large, more than 2**32 blocks).
    """
    if block_size not in BLOCK_SIZES or offset % DATA_OFFSET:
        raise ValueError(f"no EROFS layout for block size {block_size}, metadata at {offset}")
    return _Layout(offset, block_size).build(root)


class _Layout:
    def __init__(self, offset: int, block_size: int) -> None:
        self._offset = offset
        self._block = block_size
        # The first slots stay empty: readers of directories skip inode 0, which the root must not have.
        self._end = _ROOT_SLOTS * _SLOT
        self._nodes: list[Inode] = []
        self._directories: list[tuple[Inode, Inode]] = []
        self._xattrs: dict[int, bytes] = {}
        self._blocks: list[bytes] = []
        self._places: dict[int, tuple[int, int]] = {}

    def build(self, root: Inode) -> Metadata:
        self._number(root)
        self._data_start = self._end + -self._end % self._block
        self._data_end = self._data_start
        for directory, parent in self._directories:
            self._directory(directory, parent)
        for node in self._nodes:
            if node.target and not self._is_inline(node):
                self._store(node, node.target, len(node.target))
        total = (self._offset + self._data_end + -self._data_end % DATA_OFFSET) // self._block
        if total >= 1 << 32:
            raise LayoutError(
                f"the image has {total} blocks of {self._block} bytes, at most 2**32 are possible"
            )
        body = b"".join((*self._inodes(), *self._blocks))
        body += bytes(-len(body) % DATA_OFFSET)
        superblock = _SUPERBLOCK.pack(
            _MAGIC,
            _FEATURE_COMPAT_MTIME,
            self._block.bit_length() - 1,
            root.nid,
            len(self._nodes),
            total,
            self._offset // self._block,
        )
        for node in self._nodes:
            node.nid = -1
        return Metadata(self._offset, body, superblock, len(self._nodes))

    def _number(self, root: Inode) -> None:
        """Give every inode its slots, a directory's children together, in the order of their names."""
        self._assign(root)
        self._directories.append((root, root))
        # The list grows while it is walked.
        for directory, _ in self._directories:
            children = directory.children
            assert children is not None
            for name in sorted(children):
                child = children[name]
                if child.nid < 0:
                    self._assign(child)
                    if child.children is not None:
                        self._directories.append((child, directory))

    def _assign(self, node: Inode) -> None:
        position = self._end
        size = _INODE.size
        if node.xattrs or node.opaque:
            self._xattrs[id(node)] = attributes = _xattr_body(node)
            size += len(attributes)
        if node.target and self._is_inline(node):
            size += len(node.target)
            # What is stored behind the inode may not cross into another block.
            if position % self._block + size > self._block:
                position += -position % self._block
        node.nid = position // _SLOT
        self._end = position + size + -size % _SLOT
        self._nodes.append(node)

    def _is_inline(self, node: Inode) -> bool:
        attributes = self._xattrs.get(id(node), b"")
        return _INODE.size + len(attributes) + len(node.target) <= self._block

    def _store(self, node: Inode, data: bytes, size: int) -> None:
        """Put data of the metadata's own (a directory, a long link target) into blocks behind the inodes."""
        self._places[id(node)] = (self._offset + self._data_end) // self._block, size
        padding = -len(data) % self._block
        self._blocks.append(data)
        self._blocks.append(bytes(padding))
        self._data_end += len(data) + padding

    def _directory(self, directory: Inode, parent: Inode) -> None:
        children = directory.children
        assert children is not None
        entries = [(b".", directory), (b"..", parent), *children.items()]
        # Names are unique, so nodes are never compared.
        entries.sort(key=_name)
        full: list[bytes] = []
        start = used = 0
        for index, (name, _) in enumerate(entries):
            length = _DIRENT.size + len(name)
            if used + length > self._block:
                full.append(_directory_block(entries[start:index]).ljust(self._block, b"\0"))
                start, used = index, 0
            used += length
        full.append(_directory_block(entries[start:]))
        data = b"".join(full)
        self._store(directory, data, len(data))

    def _inodes(self) -> list[bytes]:
        pieces = [bytes(_ROOT_SLOTS * _SLOT)]
        position = _ROOT_SLOTS * _SLOT
        for index, node in enumerate(self._nodes, 1):
            piece = self._inode(node, index)
            begin = node.nid * _SLOT
            if begin != position:
                pieces.append(bytes(begin - position))
            pieces.append(piece)
            position = begin + len(piece)
        pieces.append(bytes(self._data_start - position))
        return pieces

    def _inode(self, node: Inode, number: int) -> bytes:
        attributes = self._xattrs.get(id(node), b"")
        count = (len(attributes) - len(_XATTR_HEADER)) // 4 + 1 if attributes else 0
        layout = _FLAT_PLAIN
        links = node.links
        inline = b""
        size = node.size
        place = 0
        if node.children is not None:
            place, size = self._places[id(node)]
            links = 2 + sum(child.children is not None for child in node.children.values())
        elif node.target:
            if self._is_inline(node):
                layout, inline, size = _FLAT_INLINE, node.target, len(node.target)
            else:
                place, size = self._places[id(node)]
        elif size:
            place, rest = divmod(node.offset, self._block)
            assert not rest, "file data must begin at a block"
        else:
            major, minor = node.device
            place = (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
        fixed = _INODE.pack(
            _EXTENDED | layout,
            count,
            node.mode,
            0,
            size,
            place,
            number & 0xFFFFFFFF,
            node.uid,
            node.gid,
            node.mtime,
            node.mtime_nsec,
            links,
        )
        return fixed + attributes + inline if attributes or inline else fixed


def _name(entry: tuple[bytes, Inode]) -> bytes:
    return entry[0]


def _directory_block(entries: list[tuple[bytes, Inode]]) -> bytes:
    offset = _DIRENT.size * len(entries)
    heads = []
    for name, node in entries:
        heads.append(_DIRENT.pack(node.nid, offset, _FILE_TYPES[stat.S_IFMT(node.mode)]))
        offset += len(name)
    return b"".join((*heads, *map(_name, entries)))


def _xattr_body(node: Inode) -> bytes:
    """The inline xattrs of an inode, sorted, behind a header without shared ones."""
    attributes = dict(node.xattrs or {})
    if node.opaque:
        attributes[b"trusted.overlay.opaque"] = b"y"
    body = [_XATTR_HEADER]
    for full_name in sorted(attributes):
        value = attributes[full_name]
        prefix, _, name = full_name.partition(b".")
        if not 0 < len(name) < 255 - len(prefix) or len(value) > 0xFFFF or b"\0" in name:
            raise LayoutError(f"xattr {printable(full_name)} with {len(value)} bytes cannot be stored")
        entry = _XATTR_ENTRY.pack(len(name), _XATTR_INDEXES[prefix], len(value)) + name + value
        body.append(entry + bytes(-len(entry) % 4))
    whole = b"".join(body)
    if len(whole) > 4 * 0xFFFF:
        raise LayoutError(f"xattrs of one file take {len(whole)} bytes, at most {4 * 0xFFFF} are possible")
    return whole
