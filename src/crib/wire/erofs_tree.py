"""The tree of one image layer, built from the members of its tar: whiteouts become what overlayfs has.

Sources: OCI image specification, "Image Layer Filesystem Changeset" (whiteouts, opaque whiteouts); kernel
``Documentation/filesystems/overlayfs.rst`` (a whiteout is a character device 0:0, an opaque directory has the
xattr ``trusted.overlay.opaque``).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from crib.wire.tar import MAX_MEMBERS
from crib.wire.tar_member import Kind, Member, printable

MAX_METADATA = 512 << 20
"""Most bytes of names, link targets and xattrs of one layer."""

_NODE_COST = 800
"""Bytes of memory that one inode takes, from its member to the file's metadata (CPython 3.11, measured)."""
_DIRECTORY_COST = 1500
"""Of a directory beyond that: its dictionary and its block."""
_XATTR_COST = 150
"""Bytes of an extended attribute besides its name and value."""
_COPIES = 4
"""How often names, link targets and xattrs are in memory when the metadata is made."""

_NAME_MAX = 255
_MAX_LINKS = 40
MAX_WALKED = 1 << 24
"""Names that all ways to directories of one layer lead over, those of links too: a small blob must not lead
it round for minutes."""
_MAX_KNOWN = 16 << 20
"""Bytes that the known ways to directories take at most."""
_KNOWN_SIZE = 200
"""Bytes of each path besides its name."""
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FIFO: stat.S_IFIFO,
}


class LayoutError(ValueError):
    """A member cannot have its place in a layer; the message names the member."""


class Inode:
    """One inode. ``offset`` is where a file's data begins in the layer's file (bytes), ``nid`` its number."""

    __slots__ = (
        "children",
        "device",
        "gid",
        "links",
        "mode",
        "mtime",
        "mtime_nsec",
        "nid",
        "offset",
        "opaque",
        "size",
        "target",
        "uid",
        "walked",
        "xattrs",
    )

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.uid = self.gid = self.mtime = self.mtime_nsec = 0
        self.size = self.offset = 0
        self.device = (0, 0)
        self.target = b""
        self.xattrs: dict[bytes, bytes] | None = None
        self.children: dict[bytes, Inode] | None = {} if stat.S_ISDIR(mode) else None
        self.links = 1
        self.opaque = False
        self.walked = False
        """Whether the way to a directory that is known leads over it."""
        self.nid = -1

    def is_whiteout(self) -> bool:
        """Whether overlayfs hides the name below it."""
        return stat.S_ISCHR(self.mode) and self.device == (0, 0)

    def describe(self, member: Member) -> None:
        """Take owner, mode, times and the xattrs that layers keep (``user.*``, ``security.capability``)."""
        self.mode = stat.S_IFMT(self.mode) | member.mode
        self.uid = member.uid
        self.gid = member.gid
        self.mtime = member.mtime
        self.mtime_nsec = member.mtime_nsec
        self.xattrs = None
        if member.xattrs:
            kept = {name: value for name, value in member.xattrs.items() if _keeps(name)}
            self.xattrs = kept or None


def _keeps(name: bytes) -> bool:
    return name.startswith(b"user.") or name == b"security.capability"


class LayerTree:
    """The layer's root and how members are added to it.

    ``absolute`` says what a leading "/" means: False refuses it, True takes the name from the layer's root.
    """

    def __init__(self, *, absolute: bool = False, max_inodes: int = MAX_MEMBERS) -> None:
        self.root = Inode(stat.S_IFDIR | 0o755)
        self._absolute = absolute
        self._max_inodes = max_inodes
        self._inodes = 1
        self._directory_count = 1
        self._xattrs = 0
        self._metadata = 0
        self.walked = 0
        """Names that were looked up on all ways so far."""
        self._directories: dict[bytes, Inode] = {b"": self.root}
        self._known = 0

    @property
    def memory(self) -> int:
        """An estimate of the maximum bytes of the tree and of the metadata made from it."""
        nodes = self._inodes * _NODE_COST + self._directory_count * _DIRECTORY_COST
        return nodes + self._xattrs * _XATTR_COST + self._metadata * _COPIES + self._known

    def add(self, member: Member, offset: int) -> Inode | None:
        """Give the member its place; ``offset`` is where its data is in the layer's file.

        A later member replaces an earlier one of the same name; a directory over a directory merges.
        Returns the file's node for a file that will be in the layer, else None. Raises LayoutError.
        """
        try:
            return self._add(member, offset)
        except ValueError as error:
            raise LayoutError(f"tar member {printable(member.name)}: {error}") from error

    def _add(self, member: Member, offset: int) -> Inode | None:
        name = self._relative(member.name)
        head, _, base = name.rpartition(b"/")
        if not base or base in (b".", b".."):
            head, base = b"", b"/".join(self._parts(name))
            head, _, base = base.rpartition(b"/")
        if not base:
            if member.kind is not Kind.DIRECTORY:
                raise ValueError(f"a {member.kind.value} cannot be the root of the layer")
            self.root.describe(member)
            return None
        if _WHITEOUT in name:
            if any(part.startswith(_AUFS) and part != _OPAQUE for part in name.split(b"/")):
                return None
            if _WHITEOUT in head and any(part.startswith(_WHITEOUT) for part in head.split(b"/")):
                raise ValueError("a whiteout is used as a directory")
        parent = self._directories.get(head)
        if parent is None:
            parent = self._directory(head)
        if len(base) > _NAME_MAX:
            raise ValueError(f"a name of {len(base)} bytes, at most {_NAME_MAX} are possible")
        if base.startswith(_WHITEOUT):
            self._whiteout(parent, base, member)
            return None
        if member.kind is Kind.HARD_LINK:
            self._link(parent, base, member)
            return None
        return self._place(parent, base, member, offset)

    def _relative(self, name: bytes) -> bytes:
        if name.startswith(b"/"):
            if not self._absolute:
                raise ValueError("the name is absolute")
            name = name.lstrip(b"/")
        return name.rstrip(b"/") if name.endswith(b"/") else name

    @staticmethod
    def _parts(path: bytes) -> list[bytes]:
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise ValueError("the name contains '..'")
        return parts

    def _place(self, parent: Inode, base: bytes, member: Member, offset: int) -> Inode | None:
        assert parent.children is not None
        existing = parent.children.get(base)
        is_directory = member.kind is Kind.DIRECTORY
        if existing is not None and is_directory and existing.children is not None:
            existing.describe(member)
            self._count(0, b"", existing)
            return None
        node = Inode(_TYPES[member.kind])
        node.describe(member)
        if member.kind is Kind.FILE:
            node.size = member.size
            node.offset = offset
        elif member.kind is Kind.SYMLINK:
            if not member.link:
                raise ValueError("the symbolic link has no target")
            node.target = member.link
        elif not is_directory:
            major, minor = node.device = member.device
            if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
                raise ValueError(f"device number {major}:{minor} is out of range")
        self._put(parent, base, node)
        return node if member.kind is Kind.FILE else None

    def _put(self, parent: Inode, base: bytes, node: Inode) -> None:
        assert parent.children is not None
        existing = parent.children.get(base)
        if existing is not None:
            # The layer both hides the name below and brings a directory: nothing of the lower one may show.
            if node.children is not None and existing.is_whiteout():
                node.opaque = True
            if existing.walked:
                self._forget()
            existing.links -= 1
        parent.children[base] = node
        self._directory_count += node.children is not None
        self._count(1, base, node)

    def _count(self, inodes: int, base: bytes, node: Inode) -> None:
        self._inodes += inodes
        if self._inodes > self._max_inodes:
            raise ValueError(f"the layer has more than {self._max_inodes} files and directories")
        self._metadata += len(base) + len(node.target)
        if node.xattrs:
            self._xattrs += len(node.xattrs)
            self._metadata += sum(len(name) + len(value) for name, value in node.xattrs.items())
        if self._metadata > MAX_METADATA:
            raise ValueError(f"names, link targets and xattrs are more than {MAX_METADATA} bytes")

    def _link(self, parent: Inode, base: bytes, member: Member) -> None:
        assert parent.children is not None
        target = self._find(self._relative(member.link))
        if target is None:
            raise ValueError(
                f"hard link to {printable(member.link)}, which the layer does not have before it"
            )
        if target.children is not None:
            raise ValueError(f"hard link to the directory {printable(member.link)}")
        if parent.children.get(base) is target:
            return
        target.links += 1
        self._put(parent, base, target)

    def _whiteout(self, parent: Inode, base: bytes, member: Member) -> None:
        if base == _OPAQUE:
            parent.opaque = True
            return
        assert parent.children is not None
        name = base[len(_WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise ValueError("a whiteout of nothing")
        existing = parent.children.get(name)
        if existing is None:
            node = Inode(stat.S_IFCHR)
            node.mtime = member.mtime
            self._put(parent, name, node)
        elif existing.children is not None:
            existing.opaque = True

    def _directory(self, path: bytes) -> Inode:
        """The directory of this name, made (0755, root) where it is missing."""
        node = self.root
        for part in self._resolved(self._parts(path)):
            assert node.children is not None
            child = node.children.get(part)
            if child is None or child.is_whiteout():
                if len(part) > _NAME_MAX:
                    raise ValueError(f"a name of {len(part)} bytes, at most {_NAME_MAX} are possible")
                child = Inode(stat.S_IFDIR | 0o755)
                self._put(node, part, child)
            elif child.children is None:
                raise ValueError(f"{printable(part)} is used as a directory but is not one")
            child.walked = True
            node = child
        self._known += _KNOWN_SIZE + len(path)
        if self._known > _MAX_KNOWN:
            self._forget()
        self._directories[path] = node
        return node

    def _forget(self) -> None:
        self._directories = {b"": self.root}
        self._known = 0

    def _find(self, path: bytes) -> Inode | None:
        head, _, base = path.rpartition(b"/")
        known = self._directories.get(head)
        if known is not None and known.children is not None and base not in (b"", b".", b".."):
            return known.children.get(base)
        *parts, base = self._parts(path) or [b""]
        node: Inode | None = self.root
        for part in (*self._resolved(parts), base):
            if node is None or node.children is None:
                return None
            node = node.children.get(part)
        return node

    def _resolved(self, parts: list[bytes]) -> Iterator[bytes]:
        """The same directory without symbolic links on the way, as an extraction would reach it."""
        todo = parts[::-1]
        path: list[bytes] = []
        nodes: list[Inode | None] = [self.root]
        followed = 0
        while todo:
            part = todo.pop()
            self.walked += 1
            if self.walked > MAX_WALKED:
                raise ValueError(f"the layer's names and links lead over more than {MAX_WALKED} names")
            if part in (b"", b"."):
                continue
            if part == b"..":
                # Only from a link's target; the root is its own parent.
                if path:
                    path.pop()
                    nodes.pop()
                continue
            here = nodes[-1]
            child = here.children.get(part) if here is not None and here.children is not None else None
            if child is not None and stat.S_ISLNK(child.mode):
                followed += 1
                if followed > _MAX_LINKS:
                    raise ValueError("too many symbolic links on the way to it")
                if child.target.startswith(b"/"):
                    path, nodes = [], [self.root]
                child.walked = True
                todo += child.target.split(b"/")[::-1]
                continue
            path.append(part)
            nodes.append(child)
        return iter(path)
