"""The tars of layers, for an export: the original ones where the layer's file holds them, else rebuilt ones.

A file with 512-byte blocks holds the tar byte for byte; a file with 4096-byte blocks or a directory holds the
same tree but not the tar. Such a tree gives a tar with other bytes (always the same ones), so another diff
id, and an image of such layers gets another id. A directory is read without following anything in it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from crib.backends.failures import failure
from crib.backends.images.checks import check_layer
from crib.backends.images.unpacked.tree_digest import kept_xattrs
from crib.host import libc
from crib.model.errors import Broken
from crib.model.ids import Digest
from crib.model.image import Layer
from crib.wire.erofs import DATA_OFFSET
from crib.wire.erofs_inode import OPAQUE
from crib.wire.erofs_reader import MAX_DEPTH, Entry, ErofsError, ErofsImage, Inode
from crib.wire.tar_member import Kind, Member
from crib.wire.tar_writer import END, member_header, padding

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_INSIDE = libc.RESOLVE_NO_XDEV | libc.RESOLVE_NO_SYMLINKS
_PIECE = 1 << 20
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}


class LayerTar(Protocol):
    """One layer's tar: `size` bytes with the digest `diff_id`."""

    @property
    def diff_id(self) -> Digest: ...

    @property
    def size(self) -> int: ...

    def pieces(self) -> Iterator[bytes]:
        """The tar, in bounded pieces; Broken, naming the layer, when it is not what it should be."""
        ...


class LayerTars(Protocol):
    """Where an export gets the tars of layers from."""

    def tar_of(self, layer: Layer) -> LayerTar:
        """The layer's tar; Broken, naming the layer, when it is not there or damaged. May block for long."""
        ...


class StoredTars:
    """The tars of layers on disk; the functions say where a layer's file is, and where its directory."""

    def __init__(
        self, file_of: Callable[[Digest], str], directory_of: Callable[[Digest], str] | None = None
    ) -> None:
        self._file_of = file_of
        self._directory_of = directory_of

    def tar_of(self, layer: Layer) -> LayerTar:
        path = self._file_of(layer.diff_id)
        if self._directory_of is not None and not os.path.lexists(path):
            return RemadeTar(self._directory_of(layer.diff_id), layer, directory_entries)
        if layer.data_digest == layer.diff_id:
            return VerbatimTar(path, layer)
        if problem := check_layer(path, layer):
            raise Broken(f"layer {layer.diff_id} cannot be exported: {problem}")
        return RemadeTar(path, layer, erofs_entries)


class VerbatimTar:
    """The data of a layer's file, which is the tar itself."""

    def __init__(self, path: str, layer: Layer) -> None:
        self._path = path
        self._layer = layer
        self.diff_id = layer.diff_id
        self.size = layer.data_size

    def pieces(self) -> Iterator[bytes]:
        algorithm = self.diff_id.partition(":")[0]
        found = hashlib.new(algorithm)
        with _failing_as_broken(self._path, self._layer):
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                for piece in _data(fd, DATA_OFFSET, self.size):
                    found.update(piece)
                    yield piece
            finally:
                os.close(fd)
        if (digest := f"{algorithm}:{found.hexdigest()}") != self.diff_id:
            raise Broken(
                f"layer {self.diff_id} cannot be exported: {self._path} is damaged, its tar has {digest}"
            )


class RemadeTar:
    """A tar made of the tree in a layer's file; made once to know its digest, and again by each `pieces`."""

    def __init__(
        self, path: str, layer: Layer, entries: Callable[[str], Iterator[tuple[Entry, int]]]
    ) -> None:
        self._path = path
        self._layer = layer
        self._entries = entries
        found = hashlib.sha256()
        self.size = 0
        for piece in self._made():
            found.update(piece)
            self.size += len(piece)
        self.diff_id = Digest(f"sha256:{found.hexdigest()}")

    def pieces(self) -> Iterator[bytes]:
        found = hashlib.sha256()
        for piece in self._made():
            found.update(piece)
            yield piece
        if f"sha256:{found.hexdigest()}" != self.diff_id:
            raise Broken(f"layer {self._layer.diff_id} cannot be exported: {self._path} changed meanwhile")

    def _made(self) -> Iterator[bytes]:
        with _failing_as_broken(self._path, self._layer):
            yield from tar_of_tree(self._entries(self._path))


def tar_of_tree(entries: Iterator[tuple[Entry, int]]) -> Iterator[bytes]:
    """A tree as a tar, in bounded pieces. OSError; EOFError and ValueError where the tree is not sound."""
    waiting = bytearray()
    for entry, fd in entries:
        for header, inode in _members(entry):
            waiting += header
            if inode is None:
                continue
            for piece in _data(fd, inode.offset, inode.size):
                waiting += piece
                if len(waiting) >= _PIECE:
                    yield bytes(waiting)
                    waiting.clear()
            waiting += bytes(padding(inode.size))
        if len(waiting) >= _PIECE:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting) + END


@contextmanager
def _failing_as_broken(path: str, layer: Layer) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure(f"layer {layer.diff_id} cannot be read from {path}", error) from error
    except (ErofsError, EOFError, ValueError) as error:
        raise Broken(f"layer {layer.diff_id} cannot be exported: {path}: {error}") from error


def _data(fd: int, offset: int, size: int) -> Iterator[bytes]:
    end = offset + size
    while offset < end:
        piece = os.pread(fd, min(_PIECE, end - offset), offset)
        if not piece:
            raise EOFError(f"the file ends at {offset}, before its data does")
        yield piece
        offset += len(piece)


def _members(entry: Entry) -> Iterator[tuple[bytes, Inode | None]]:
    """The headers of one name's members, and the inode whose data follows, if any does.

    Whiteouts get the names that layers have for them (OCI image specification, layer.md, Whiteouts).
    """
    inode = entry.inode
    if inode.is_whiteout:
        above, slash, _ = entry.path.rpartition(b"/")
        yield member_header(_empty(above + slash + b".wh." + entry.name, inode)), None
        return
    if entry.link is not None:
        link = _empty(entry.path, inode)._replace(
            kind=Kind.HARD_LINK, mode=inode.mode & 0o7777, link=entry.link
        )
        yield member_header(link), None
        return
    kind = _KINDS[stat.S_IFMT(inode.mode)]
    name = entry.path + b"/" if kind is Kind.DIRECTORY else entry.path
    member = Member(
        name if entry.path else b"./",
        kind,
        inode.mode & 0o7777,
        inode.uid,
        inode.gid,
        inode.mtime,
        inode.mtime_nsec,
        inode.size if kind is Kind.FILE else 0,
        0,
        0,
        inode.target,
        inode.device,
        {key: value for key, value in inode.xattrs.items() if key != OPAQUE},
    )
    yield member_header(member), inode if kind is Kind.FILE else None
    if inode.is_opaque:
        yield member_header(_empty((name if entry.path else b"") + b".wh..wh..opq", inode)), None


def _empty(name: bytes, inode: Inode) -> Member:
    """A file without data; a whiteout in a layer is one."""
    return Member(name, Kind.FILE, 0, inode.uid, inode.gid, inode.mtime, inode.mtime_nsec, 0, 0, 0)


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
