"""Reading back the EROFS files that our own writer makes, without a kernel and without believing them.

    image = ErofsImage(lambda offset, size: os.pread(fd, size, offset), os.fstat(fd).st_size)
    for entry in image.walk():
        ...

Every field is checked and every walk is bounded: no cycle, no name that leads anywhere, no more data in all
than the file has. Pure. Source: kernel ``Documentation/filesystems/erofs.rst`` and ``fs/erofs/erofs_fs.h``.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple

from crib.wire.erofs import BLOCK_SIZES, DATA_OFFSET, SUPERBLOCK_OFFSET
from crib.wire.erofs_inode import ErofsError, Inode, InodeTable, Window
from crib.wire.tar import MAX_MEMBERS
from crib.wire.tar_member import printable

__all__ = ["MAX_DEPTH", "Entry", "ErofsError", "ErofsImage", "Inode"]

MAX_DEPTH = 2048
"""Directories above each other: as deep as the longest name of a tar (4096 bytes) can lead."""

_SUPERBLOCK = Struct("<I4sIBBHQ12sII84s")
_MAGIC = 0xE0F5E1E2
_FEATURE_COMPAT_MTIME = 0x2
_DIRENT = Struct("<QHBB")
_NAME_MAX = 255
_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}


class Entry(NamedTuple):
    """One name of the tree. ``path`` is relative to the root and joined by "/", ``name`` its last part.

    The root itself has an empty path and depth 0. ``link`` is the path under which the same inode came
    before, or None for the first name: a hard link.
    """

    path: bytes
    name: bytes
    depth: int
    inode: Inode
    link: bytes | None


class ErofsImage:
    """One file, of ``size`` bytes, read by ``read_at(offset, size)``. ErofsError when it is not ours."""

    def __init__(
        self, read_at: Callable[[int, int], bytes], size: int, *, max_inodes: int = MAX_MEMBERS
    ) -> None:
        self._window = Window(read_at, size)
        self._max_inodes = max_inodes
        fields = _SUPERBLOCK.unpack(self._window.read(SUPERBLOCK_OFFSET, _SUPERBLOCK.size))
        magic, sum_and_epoch, compat, bits, slots, root, inodes, rest, blocks, meta, tail = fields
        if magic != _MAGIC:
            raise ErofsError(f"no EROFS file: the magic number is {magic:#x}")
        self.block_size = 1 << bits if bits < 32 else 0
        """Bytes of a block."""
        features = compat != _FEATURE_COMPAT_MTIME or slots or any(sum_and_epoch + rest + tail)
        if self.block_size not in BLOCK_SIZES or features:
            raise ErofsError("the superblock has features that our writer does not use")
        self.data_end = meta * self.block_size
        """Where the data of files ends and the metadata begins."""
        if blocks * self.block_size != size or not DATA_OFFSET <= self.data_end < size:
            raise ErofsError(f"{blocks} blocks, metadata at block {meta}, in a file of {size} bytes")
        if not 0 < inodes <= max_inodes:
            raise ErofsError(f"{inodes} files and directories, at most {max_inodes} are read")
        self.inodes = int(inodes)
        """Files, directories and all else, each counted once."""
        self._root = root
        self._table = InodeTable(self._window, self.data_end, self.block_size)

    def walk(self) -> Iterator[Entry]:
        """The whole tree from the root on, a directory before what is in it, names in rising order.

        ErofsError may come at any time, also at the very end (a count that does not match).
        """
        return _Walk(self._window, self._table, self.block_size, self._max_inodes).run(
            self._root, self.inodes, self.data_end - DATA_OFFSET
        )


class _Walk:
    def __init__(self, window: Window, table: InodeTable, block: int, max_names: int) -> None:
        self._window = window
        self._table = table
        self._block = block
        self._names_left = max_names
        self._linked: dict[int, tuple[Inode, bytes, int]] = {}
        self._seen: set[int] = set()

    def run(self, root_nid: int, inodes: int, data_left: int) -> Iterator[Entry]:
        root = self._table.read(root_nid)
        if not stat.S_ISDIR(root.mode):
            raise ErofsError(f"the root, inode {root_nid}, is no directory")
        self._seen.add(root_nid)
        yield Entry(b"", b"", 0, root, None)
        stack = [(b"", root, self._entries(root, root_nid))]
        while stack:
            above, directory, names = stack[-1]
            found = next(names, None)
            if found is None:
                stack.pop()
                continue
            name, nid, file_type = found
            path = above + b"/" + name if above else name
            entry = self._entry(path, name, len(stack), nid)
            inode = entry.inode
            if _FILE_TYPES[stat.S_IFMT(inode.mode)] != file_type:
                raise ErofsError(f"{printable(path)}: type {file_type} in its directory, mode {inode.mode:o}")
            yield entry
            if stat.S_ISDIR(inode.mode):
                if len(stack) >= MAX_DEPTH:
                    raise ErofsError(f"{printable(path)} lies more than {MAX_DEPTH} directories deep")
                stack.append((path, inode, self._entries(inode, directory.nid)))
            elif stat.S_ISREG(inode.mode) and entry.link is None:
                data_left -= inode.size
                if data_left < 0:
                    raise ErofsError("the files have more data in all than the image")
        if len(self._seen) != inodes:
            raise ErofsError(f"{len(self._seen)} files and directories, the superblock says {inodes}")

    def _entry(self, path: bytes, name: bytes, depth: int, nid: int) -> Entry:
        self._names_left -= 1
        if self._names_left < 0:
            raise ErofsError("too many names")
        known = self._linked.get(nid)
        if known is not None:
            inode, first, count = known
            if count >= inode.links:
                raise ErofsError(f"{printable(path)}: inode {nid} has more names than its {inode.links}")
            self._linked[nid] = inode, first, count + 1
            return Entry(path, name, depth, inode, first)
        if nid in self._seen:
            raise ErofsError(f"{printable(path)}: inode {nid} was reached before")
        self._seen.add(nid)
        inode = self._table.read(nid)
        if inode.links > 1 and not stat.S_ISDIR(inode.mode):
            self._linked[nid] = inode, path, 1
        return Entry(path, name, depth, inode, None)

    def _entries(self, directory: Inode, parent: int) -> Iterator[tuple[bytes, int, int]]:
        """The names in a directory with their inode and type, checked to rise and to lead nowhere else."""
        before = b""
        dots = 0
        for start in range(0, directory.size, self._block):
            length = min(self._block, directory.size - start)
            block = self._window.read(directory.offset + start, length)
            for name, nid, file_type in _dirents(block, directory.nid):
                if name <= before or b"/" in name or b"\0" in name or len(name) > _NAME_MAX:
                    raise ErofsError(f"inode {directory.nid}: name {printable(name)} is out of place")
                before = name
                if name in (b".", b".."):
                    if nid != (directory.nid if name == b"." else parent) or file_type != 2:
                        raise ErofsError(f"inode {directory.nid}: {printable(name)} leads to inode {nid}")
                    dots += 1
                    continue
                yield name, nid, file_type
        if dots != 2:
            raise ErofsError(f"inode {directory.nid}: a directory without '.' and '..'")


def _dirents(block: bytes, directory: int) -> Iterator[tuple[bytes, int, int]]:
    size = _DIRENT.size
    if len(block) <= size:
        raise ErofsError(f"inode {directory}: a directory block of {len(block)} bytes")
    first = _DIRENT.unpack_from(block)[1]
    if first % size or not size <= first < len(block):
        raise ErofsError(f"inode {directory}: the names of a directory block begin at {first}")
    heads = list(_DIRENT.iter_unpack(block[:first]))
    # Only the last name may be followed by padding.
    ends = [head[1] for head in heads[1:]]
    tail = block[heads[-1][1] :].rstrip(b"\0")
    ends.append(heads[-1][1] + len(tail))
    start = first
    for (nid, offset, file_type, reserved), end in zip(heads, ends, strict=True):
        if offset != start or not offset < end <= len(block) or reserved:
            raise ErofsError(f"inode {directory}: a directory entry is out of place")
        yield block[offset:end], nid, file_type
        start = end
