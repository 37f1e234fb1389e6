"""Reading back the EROFS files that our own writer makes, without a kernel and without believing them.

    image = ErofsImage(lambda offset, size: os.pread(fd, size, offset), os.fstat(fd).st_size)
    image.check()

Every field is checked and every walk is bounded: no cycle, no name that leads anywhere, no more data in all
than the file has, nothing that our writer does not make. The daemon looks at a file with this before the
kernel does. Pure. Source: kernel ``Documentation/filesystems/erofs.rst`` and ``fs/erofs/erofs_fs.h``.
"""

from __future__ import annotations

import operator
import stat
from collections import deque
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
_KIND = 0o170000
_REGULAR = 1
_DIRECTORY = 2
_FILE_TYPES = {
    stat.S_IFREG: _REGULAR,
    stat.S_IFDIR: _DIRECTORY,
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
        head = self._window.read(0, DATA_OFFSET)
        fields = _SUPERBLOCK.unpack_from(head, SUPERBLOCK_OFFSET)
        magic, sum_and_epoch, compat, bits, slots, root, inodes, rest, blocks, meta, tail = fields
        if magic != _MAGIC:
            raise ErofsError(f"no EROFS file: the magic number is {magic:#x}")
        self.block_size = 1 << bits if bits < 32 else 0
        """Bytes of a block."""
        features = compat != _FEATURE_COMPAT_MTIME or slots or any(sum_and_epoch + rest + tail)
        if self.block_size not in BLOCK_SIZES or features:
            raise ErofsError("the superblock has features that our writer does not use")
        if any(head[:SUPERBLOCK_OFFSET]) or any(head[SUPERBLOCK_OFFSET + _SUPERBLOCK.size :]):
            raise ErofsError("there is something before or behind the superblock")
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

    def check(self) -> None:
        """Read everything that the superblock leads to, and nothing twice; ErofsError if it is not our
        format.

        Afterwards the kernel finds nothing in the file that our writer would not make, whoever wrote it.
        """
        links: dict[int, tuple[int, int]] = {}  # names that may follow, and their type
        seen = {self._root}
        names_left, data_left = self._max_inodes, self.data_end - DATA_OFFSET
        # In the order in which the writer numbers inodes, which is that of the file.
        todo = deque([(self._root, self._root, 0)])
        while todo:
            directory, parent, depth = todo.popleft()
            if depth > MAX_DEPTH:
                raise ErofsError(f"inode {directory} lies more than {MAX_DEPTH} directories deep")
            for names, nids, types in self._blocks(directory, parent):
                names_left -= len(names)
                for nid, file_type in zip(nids, types, strict=True):
                    if nid in seen:
                        _count_name(links, nid, file_type)
                        continue
                    seen.add(nid)
                    if file_type == _DIRECTORY:
                        todo.append((nid, directory, depth + 1))
                        continue
                    inode = self._leaf(nid, file_type)
                    if inode.links > 1:
                        links[nid] = inode.links - 1, file_type
                    if file_type == _REGULAR:
                        data_left -= inode.size
                if names_left < 0 or data_left < 0:
                    raise ErofsError("too many names, or more data in all files than in the image")
        if len(seen) != self.inodes:
            raise ErofsError(f"{len(seen)} files and directories, the superblock says {self.inodes}")

    def _leaf(self, nid: int, file_type: int) -> Inode:
        inode = self._table.read(nid)
        if _FILE_TYPES[inode.mode & _KIND] != file_type:
            raise ErofsError(f"inode {nid}: type {file_type} in its directory, mode {inode.mode:o}")
        return inode

    def walk(self) -> Iterator[Entry]:
        """The whole tree from the root on, a directory before what is in it, names in rising order.

        All of it is checked before the first comes.
        """
        self.check()
        first: dict[int, bytes] = {}
        root = self._table.read(self._root)
        yield Entry(b"", b"", 0, root, None)
        stack = [(b"", root.nid, self._names(root.nid, root.nid))]
        while stack:
            above, directory, names = stack[-1]
            # Until the next directory is met: most of a tree is files.
            for name, nid in names:
                path = above + name
                inode = self._table.read(nid)
                yield Entry(path, name, len(stack), inode, first.get(nid))
                if stat.S_ISDIR(inode.mode):
                    stack.append((path + b"/", nid, self._names(nid, directory)))
                    break
                if inode.links > 1:
                    first.setdefault(nid, path)
            else:
                stack.pop()

    def _names(self, directory: int, parent: int) -> Iterator[tuple[bytes, int]]:
        for names, nids, _ in self._blocks(directory, parent):
            yield from zip(names, nids, strict=True)

    def _blocks(self, nid: int, parent: int) -> Iterator[tuple[list[bytes], list[int], list[int]]]:
        """Names, inodes and types of each block of a directory, checked to rise, without '.' and '..'."""
        directory = self._table.read(nid)
        if not stat.S_ISDIR(directory.mode):
            raise ErofsError(f"inode {nid}: mode {directory.mode:o} is not a directory")
        before = b""
        dots = {b".": nid, b"..": parent}
        for start in range(0, directory.size, self.block_size):
            whole = self._window.read(directory.offset + start, self.block_size)
            block = whole[: directory.size - start]
            if any(whole[len(block) :]):
                # Where the last name ends the kernel sees now by the directory's size, now by a NUL.
                raise ErofsError(f"inode {nid}: something follows the last name")
            try:
                names, nids, types = _dirents(block, before)
            except ErofsError as error:
                raise ErofsError(f"inode {nid}: {error}") from error
            before = names[-1]
            for name in [dot for dot in dots if dot in names]:
                at = names.index(name)
                if nids[at] != dots.pop(name) or types[at] != _DIRECTORY:
                    raise ErofsError(f"inode {nid}: {printable(name)} leads to inode {nids[at]}")
                del names[at], nids[at], types[at]
            yield names, nids, types
        if dots:
            raise ErofsError(f"inode {nid}: a directory without '.' and '..'")


def _count_name(links: dict[int, tuple[int, int]], nid: int, file_type: int) -> None:
    """One more name of an inode that was met before: no more than it says, and none of a directory."""
    left, known_type = links.get(nid, (0, 0))
    if not left or known_type != file_type:
        raise ErofsError(f"inode {nid} was reached before, and has no more names of type {file_type}")
    links[nid] = left - 1, file_type


def _dirents(block: bytes, before: bytes) -> tuple[list[bytes], list[int], list[int]]:
    """Names, inodes and types of a directory block; each name comes after the one before it.

    In whole lists and not entry by entry: every layer is looked at by the daemon before it is mounted.
    """
    size = _DIRENT.size
    first = _DIRENT.unpack_from(block)[1] if len(block) > size else 0
    if first % size or not size <= first < len(block):
        raise ErofsError(f"the names of a directory block of {len(block)} bytes begin at {first}")
    nids, starts, types, reserved = map(list, zip(*_DIRENT.iter_unpack(block[:first]), strict=True))
    # Only the last name may be followed by padding.
    ends = [*starts[1:], starts[-1] + len(block[starts[-1] :].rstrip(b"\0"))]
    if any(map(operator.ge, starts, ends)) or any(reserved):
        raise ErofsError("a directory entry is out of place")
    names = [block[start:end] for start, end in zip(starts, ends, strict=True)]
    text = block[first : ends[-1]]
    rising = before < names[0] and all(map(operator.lt, names, names[1:]))
    if not rising or b"/" in text or b"\0" in text or max(map(len, names)) > _NAME_MAX:
        raise ErofsError(f"a name from {printable(names[0])} on is out of place")
    return names, nids, types
