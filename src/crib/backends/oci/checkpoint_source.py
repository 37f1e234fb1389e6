"""A checkpoint that somebody else may have made, read without trust; for the confined process.

It is a tar, or the root of a checkpoint image. Of what is in it only these are looked at: `config.dump` for
the image that it is of, CRIU's images, and what was changed in the root. Of `spec.dump` the process can be
compared with another one. All else is passed over, the container's log and links of any kind among it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from crib.host import libc
from crib.wire import checkpoint_archive as wire
from crib.wire.tar import TarReader
from crib.wire.tar_member import Kind, Member, printable

MAX_MEMBERS = 100_000
"""Of the archive itself; the changes of the root are one of them."""
MAX_IMAGES = 50_000
"""Files of CRIU's: a handful for each process."""
MAX_DELETED = 16 << 20
"""Bytes of the list of what is gone."""
_IMAGE_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_PARTS = tuple(name.encode() for name in (wire.CONFIG, wire.SPEC, wire.DIFF, wire.DELETED))
_PIECE = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV


class Unsound(ValueError):
    """The checkpoint cannot be taken; the text says what in it, and why."""


class FilePart(NamedTuple):
    """Bytes of an open file."""

    fd: int
    offset: int
    size: int

    def pieces(self) -> Iterator[bytes]:
        at, end = self.offset, self.offset + self.size
        while at < end:
            piece = os.pread(self.fd, min(_PIECE, end - at), at)
            if not piece:
                raise Unsound("it ends before its data does")
            yield piece
            at += len(piece)

    def read(self, most: int, what: str) -> bytes:
        if self.size > most:
            raise Unsound(f"{what} has {self.size} bytes, at most {most} are taken")
        return b"".join(self.pieces())


class CheckpointParts(Protocol):
    """Where the parts of a checkpoint are."""

    def part(self, name: str) -> FilePart | None:
        """A file of the checkpoint's top; None when there is none."""
        ...

    def images(self) -> Iterator[tuple[str, FilePart]]:
        """CRIU's images."""
        ...


def open_source(fd: int) -> CheckpointParts:
    """Of a tar, or of a directory. Unsound."""
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        return DirectorySource(fd)
    if not stat.S_ISREG(status.st_mode):
        raise Unsound("it is neither a file nor a directory")
    return TarSource(FilePart(fd, 0, status.st_size))


def tar_members(part: FilePart, most: int) -> Iterator[Member]:
    """The members of a tar; TarError, Unsound."""
    reader = TarReader(most)
    for piece in part.pieces():
        yield from reader.receive_data(piece)
    reader.end()


def plain_data(member: Member, archive: FilePart) -> FilePart:
    """Where a file's data is; Unsound when it is sparse: such a file may claim any size."""
    if member.sparse is not None or member.stored != member.size:
        raise Unsound(f"{printable(member.name)} is sparse")
    return FilePart(archive.fd, archive.offset + member.offset, member.size)


class TarSource:
    """See CheckpointParts."""

    def __init__(self, archive: FilePart) -> None:
        self._parts: dict[str, FilePart] = {}
        self._images: dict[str, FilePart] = {}
        for member in tar_members(archive, MAX_MEMBERS):
            name = member.name.removeprefix(b"./").rstrip(b"/")
            above, _, last = name.rpartition(b"/")
            if above == wire.IMAGES.encode():
                _put(self._images, _image_name(last), self._file(member, archive))
            elif above:
                continue
            elif name in _PARTS:
                _put(self._parts, name.decode(), self._file(member, archive))
            elif name == wire.IMAGES.encode() and member.kind is not Kind.DIRECTORY:
                raise Unsound(f"{printable(name)} is a {member.kind.value}")
        if len(self._images) > MAX_IMAGES:
            raise Unsound(f"it has more than {MAX_IMAGES} images")

    @staticmethod
    def _file(member: Member, archive: FilePart) -> FilePart:
        if member.kind is not Kind.FILE:
            raise Unsound(f"{printable(member.name)} is a {member.kind.value}")
        return plain_data(member, archive)

    def part(self, name: str) -> FilePart | None:
        return self._parts.get(name)

    def images(self) -> Iterator[tuple[str, FilePart]]:
        yield from self._images.items()


def _put(parts: dict[str, FilePart], name: str, part: FilePart) -> None:
    if name in parts:
        raise Unsound(f"{name} is in it twice")
    parts[name] = part


def _image_name(name: bytes) -> str:
    if not _IMAGE_NAME.fullmatch(name):
        raise Unsound(f"{printable(name)} is no name of an image")
    return name.decode()


class DirectorySource:
    """See CheckpointParts. The descriptors that it opens last as long as the process."""

    def __init__(self, top: int) -> None:
        self._top = top

    def part(self, name: str) -> FilePart | None:
        return self._open(self._top, name)

    def images(self) -> Iterator[tuple[str, FilePart]]:
        try:
            directory = libc.openat2(self._top, wire.IMAGES, _DIRECTORY, resolve=_BENEATH)
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unsound(f"{wire.IMAGES} is no directory") from error
        names = os.listdir(directory)
        if len(names) > MAX_IMAGES:
            raise Unsound(f"it has more than {MAX_IMAGES} images")
        for name in sorted(names):
            if (part := self._open(directory, _image_name(os.fsencode(name)))) is not None:
                yield name, part
                os.close(part.fd)

    @staticmethod
    def _open(directory: int, name: str) -> FilePart | None:
        try:
            fd = libc.openat2(directory, name, _FILE, resolve=_BENEATH)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EXDEV, errno.ENXIO):
                raise Unsound(f"{name} is no file") from error
            raise
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise Unsound(f"{name} is no file")
        return FilePart(fd, 0, status.st_size)
