"""A tree of files that is to become a file system, and the two forms it is written in: EROFS, and cpio.

The same tree gives the same bytes: everything belongs to root and has the same time, and names are sorted.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from crib.wire.erofs import DATA_OFFSET, SUPERBLOCK_OFFSET, metadata
from crib.wire.erofs_tree import Inode

BLOCK_BYTES = 4096
COPY_BYTES = 1 << 20
_MAX_CPIO_BYTES = (1 << 32) - 1


class BuildFailed(Exception):
    """The guest's image cannot be made; the message says what is missing or what failed."""


class Tree:
    """Directories, files and links by path, without the leading slash. Directories above a path are made."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[int, bytes | Path]] = {}

    def directory(self, path: str, mode: int = 0o755) -> None:
        """A directory; one that is there keeps its mode."""
        path = path.strip("/")
        if path and path not in self._nodes:
            self._parents(path)
            self._nodes[path] = (stat.S_IFDIR | mode, b"")

    def file(self, path: str, content: bytes | Path, mode: int = 0o644) -> None:
        """A file, with these bytes or with those of a file of the host."""
        path = path.strip("/")
        self._parents(path)
        self._nodes[path] = (stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        path = path.strip("/")
        self._parents(path)
        self._nodes[path] = (stat.S_IFLNK | 0o777, target.encode())

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._nodes

    def _parents(self, path: str) -> None:
        above, _, _ = path.rpartition("/")
        if above:
            mode, _ = self._nodes.get(above, (stat.S_IFDIR, b""))
            if not stat.S_ISDIR(mode):
                raise BuildFailed(f"/{above} is to be a directory for /{path}, and is something else")
            self.directory(above)

    def entries(self) -> Iterator[tuple[str, int, bytes | Path]]:
        """Path, mode with its type, and content or target; a directory before what is in it."""
        for path in sorted(self._nodes):
            mode, content = self._nodes[path]
            yield path, mode, content


def write_erofs(tree: Tree, target: IO[bytes], moment: int) -> None:
    """An EROFS image, uncompressed: a guest reads pages of it as they are. `moment`: seconds since 1970."""
    root = Inode(stat.S_IFDIR | 0o755)
    root.mtime = moment
    nodes = {"": root}
    end = DATA_OFFSET
    for path, mode, content in tree.entries():
        node = nodes[path] = Inode(mode)
        node.mtime = moment
        above, _, name = path.rpartition("/")
        siblings = nodes[above].children
        assert siblings is not None
        siblings[name.encode()] = node
        if stat.S_ISLNK(mode):
            assert isinstance(content, bytes)
            node.target = content
        elif stat.S_ISREG(mode):
            node.offset = end
            target.seek(end)
            node.size = _copy(content, target)
            end += node.size + -node.size % BLOCK_BYTES
    made = metadata(root, end, BLOCK_BYTES)
    target.seek(made.offset)
    target.write(made.body)
    target.seek(SUPERBLOCK_OFFSET)
    target.write(made.superblock)
    target.truncate(made.file_size)


def write_cpio(tree: Tree, target: IO[bytes], moment: int) -> None:
    """A cpio archive as the kernel unpacks it (newc, `Documentation/driver-api/early-userspace`)."""
    number = 0
    for number, (path, mode, content) in enumerate(tree.entries(), 1):
        data = content if isinstance(content, bytes) else content.read_bytes()
        _member(target, path, (number, mode, moment), data)
    _member(target, "TRAILER!!!", (number + 1, 0, 0), b"")


def _member(target: IO[bytes], path: str, facts: tuple[int, int, int], data: bytes) -> None:
    if len(data) > _MAX_CPIO_BYTES:
        raise BuildFailed(f"/{path} has {len(data)} bytes, an initrd's file has at most {_MAX_CPIO_BYTES}")
    number, mode, moment = facts
    links = 2 if stat.S_ISDIR(mode) else 1
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, links, moment, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    target.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))


def _copy(content: bytes | Path, target: IO[bytes]) -> int:
    if isinstance(content, bytes):
        return target.write(content)
    size = 0
    with content.open("rb") as source:
        while piece := source.read(COPY_BYTES):
            size += target.write(piece)
    return size
