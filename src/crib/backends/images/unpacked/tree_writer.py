"""A layer's tree made in an empty directory, from its EROFS file; for the confined process of `unpack_main`.

Every name is made below the descriptor of its own directory, new (O_EXCL), and never followed, so that no
entry can reach another place even where nothing confines the process. The attribute that makes a directory
opaque needs more rights than all the rest, so it is left to the daemon.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field

from crib.backends.images.unpacked.tree_digest import (
    Content,
    TreeDigest,
    device_content,
    has_holes,
    kept_xattrs,
    pieces,
)
from crib.host import libc
from crib.wire.erofs_inode import CAPABILITY, OPAQUE
from crib.wire.erofs_reader import Entry, ErofsImage, Inode

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV
_MAX_OPAQUE = 8 << 20


class TreeError(ValueError):
    """The tree cannot be made; the message names the path."""


@dataclass(slots=True)
class Written:
    """What was made: the digest of the tree, and the directories that are to be marked opaque.

    `left_out` counts extended attributes that the kernel or the file system does not take.
    """

    digest: str = ""
    opaque: list[bytes] = field(default_factory=list)
    left_out: int = 0


def write_tree(image: ErofsImage, source_fd: int, root_fd: int) -> Written:
    """Make the tree of `image`, whose file is open as `source_fd`, in the empty directory `root_fd`.

    ErofsError when the file is not one of ours, TreeError and OSError when something cannot be made; what
    was made until then stays.
    """
    with contextlib.closing(_TreeWriter(source_fd, root_fd)) as writer:
        return writer.write(image)


class _TreeWriter:
    def __init__(self, source_fd: int, root_fd: int) -> None:
        self._source = source_fd
        self._has_holes = has_holes(os.fstat(source_fd))
        self._root = root_fd
        self._digest = TreeDigest()
        self._written = Written()
        self._open: list[tuple[int, Inode]] = []
        self._opaque_bytes = 0

    def close(self) -> None:
        """Let go of the directories that are open when something failed."""
        while self._open:
            os.close(self._open.pop()[0])

    def write(self, image: ErofsImage) -> Written:
        for entry in image.walk():
            while len(self._open) > entry.depth:
                self._leave()
            try:
                self._make(entry)
            except OSError as error:
                where = entry.path.decode("utf-8", "backslashreplace")[:1000] or "."
                raise TreeError(f"{where!r}: {error.strerror or error}") from error
        while self._open:
            self._leave()
        self._written.digest = self._digest.text()
        return self._written

    def _make(self, entry: Entry) -> None:
        if entry.link is not None:
            self._link(entry.link, entry)
            return
        inode = entry.inode
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFREG:
            self._file(entry)
        elif kind == stat.S_IFDIR:
            self._enter(entry)
        elif kind == stat.S_IFLNK:
            self._symlink(entry)
        else:
            self._special(entry)

    def _enter(self, entry: Entry) -> None:
        if entry.depth == 0:
            fd = os.dup(self._root)
        else:
            parent = self._open[-1][0]
            os.mkdir(entry.name, 0o700, dir_fd=parent)
            fd = os.open(entry.name, _DIRECTORY, dir_fd=parent)
        self._open.append((fd, entry.inode))
        self._add(entry, b"", self._set_xattrs(fd, entry.inode))
        if entry.inode.is_opaque:
            self._written.opaque.append(entry.path)
            self._opaque_bytes += len(entry.path)
            if self._opaque_bytes > _MAX_OPAQUE:
                raise TreeError("too many opaque directories")

    def _leave(self) -> None:
        """Owner, mode and times of a directory come last: making names in it needs and changes them."""
        fd, inode = self._open.pop()
        try:
            _describe(fd, inode)
        finally:
            os.close(fd)

    def _file(self, entry: Entry) -> None:
        inode = entry.inode
        fd = os.open(entry.name, _NEW, 0o600, dir_fd=self._open[-1][0])
        try:
            content = self._copy(inode, fd)
            if inode.uid or inode.gid:
                os.fchown(fd, inode.uid, inode.gid)
            # After the owner, whose change takes capabilities away.
            xattrs = self._set_xattrs(fd, inode)
            os.fchmod(fd, stat.S_IMODE(inode.mode))
            os.utime(fd, ns=_times(inode))
        finally:
            os.close(fd)
        self._add(entry, content, xattrs)

    def _copy(self, inode: Inode, fd: int) -> bytes:
        content = Content()
        end = 0
        for offset, piece in pieces(self._source, inode.offset, inode.size, holes=self._has_holes):
            content.add(offset, piece)
            _write(fd, piece, offset)
            end = offset + len(piece)
        if end < inode.size:
            os.ftruncate(fd, inode.size)
        return content.digest(inode.size)

    def _symlink(self, entry: Entry) -> None:
        inode = entry.inode
        parent = self._open[-1][0]
        os.symlink(inode.target, entry.name, dir_fd=parent)
        self._describe_name(entry)
        self._add(entry, inode.target, {})

    def _special(self, entry: Entry) -> None:
        inode = entry.inode
        os.mknod(
            entry.name, stat.S_IFMT(inode.mode) | 0o600, os.makedev(*inode.device), dir_fd=self._open[-1][0]
        )
        self._describe_name(entry)
        self._add(entry, device_content(*inode.device), {})

    def _describe_name(self, entry: Entry) -> None:
        """Owner, mode and times of what must not be opened."""
        inode = entry.inode
        parent = self._open[-1][0]
        os.chown(entry.name, inode.uid, inode.gid, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISLNK(inode.mode):
            # Not a link, for it was made just now and nobody else is here.
            os.chmod(entry.name, stat.S_IMODE(inode.mode), dir_fd=parent)
        os.utime(entry.name, ns=_times(inode), dir_fd=parent, follow_symlinks=False)

    def _link(self, first: bytes, entry: Entry) -> None:
        above, _, name = first.rpartition(b"/")
        fd = libc.openat2(self._root, os.fsdecode(above) or ".", os.O_PATH | os.O_DIRECTORY, resolve=_BENEATH)
        try:
            os.link(name, entry.name, src_dir_fd=fd, dst_dir_fd=self._open[-1][0], follow_symlinks=False)
        finally:
            os.close(fd)
        self._digest.add_link(entry.path, first)

    def _set_xattrs(self, fd: int, inode: Inode) -> dict[bytes, bytes]:
        """What of the attributes is there afterwards, with the opaque mark that the daemon will set."""
        if not inode.xattrs:
            return {}
        for name, value in inode.xattrs.items():
            if name == OPAQUE:
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                # A capability that no kernel would honour, or a file system without attributes of users.
                useless = error.errno == errno.EINVAL and name == CAPABILITY
                if not useless and (error.errno != errno.EOPNOTSUPP or name == CAPABILITY):
                    shown = name.decode("utf-8", "backslashreplace")
                    words = f"extended attribute {shown} of {len(value)} bytes: {error.strerror}"
                    raise OSError(error.errno, words) from error
                self._written.left_out += 1
        there = kept_xattrs(fd)
        if inode.is_opaque:
            there[OPAQUE] = b"y"
        return there

    def _add(self, entry: Entry, content: bytes, xattrs: dict[bytes, bytes]) -> None:
        inode = entry.inode
        mode = stat.S_IFLNK | 0o777 if stat.S_ISLNK(inode.mode) else inode.mode
        self._digest.add(entry.path, mode, (inode.uid, inode.gid), content, xattrs)


def _describe(fd: int, inode: Inode) -> None:
    os.fchown(fd, inode.uid, inode.gid)
    os.fchmod(fd, stat.S_IMODE(inode.mode))
    os.utime(fd, ns=_times(inode))


def _times(inode: Inode) -> tuple[int, int]:
    nanoseconds = inode.mtime * 1_000_000_000 + inode.mtime_nsec
    return nanoseconds, nanoseconds


def _write(fd: int, data: bytes, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], offset + written)
