"""The process that writes or reads one archive: root without rights beyond the directory of one volume.

It gets the directory and the archive by descriptor only, makes the directory its root, keeps the few
capabilities that it needs, does one thing, and says how it went on its output. Decompressors are written in
C: whatever one of them does wrong stays in here.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from crib.backends.failures import why
from crib.backends.images.worker.inflate import InflateError, Inflater
from crib.backends.volumes.archive_messages import ArchiveAnswer, ArchiveOrder
from crib.backends.volumes.tree_export import TreeTar
from crib.backends.volumes.tree_import import ArchiveRefused, TreeMaker
from crib.host import confinement, files, privileges, seccomp
from crib.wire import volume_archive
from crib.wire.tar import TarError

_READING = ("DAC_READ_SEARCH",)
_WRITING = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP")
_CAPABILITIES: Mapping[str, Sequence[str]] = {"write": _READING, "read": _WRITING, "describe": ()}
_DESCRIPTORS = 64
_MEMORY = 1 << 30
_NICE = 10
"""Pods and the daemon come first."""
_PIECE = 1 << 20
_WORDS = 4000
"""Characters of an error."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def write_archive(order: ArchiveOrder, compressor: _Compressor | None) -> ArchiveAnswer:
    """The tree as a tar."""
    with open(order.archive, "wb", buffering=_PIECE, closefd=False) as file:
        compress = compressor.compress if compressor is not None else bytes
        tar = TreeTar(order.directory, lambda data: file.write(compress(data)))
        if order.description:
            file.write(compress(volume_archive.header(order.description)))
        tar.run()
        if compressor is not None:
            file.write(compressor.flush())
    return ArchiveAnswer(size=tar.content, left_out=tar.left_out)


def read_archive(order: ArchiveOrder) -> ArchiveAnswer:
    """The tar as a tree."""
    maker = TreeMaker(order.directory, order.min_free, order.max_bytes)
    inflater = Inflater()
    with contextlib.closing(maker):
        for piece in _pieces(order.archive):
            for data in inflater.feed(piece):
                maker.take(data)
        for data in inflater.end():
            maker.take(data)
        maker.end()
    files.sync_filesystem(order.directory)
    return ArchiveAnswer(size=maker.written, left_out=maker.left_out)


def describe_archive(order: ArchiveOrder) -> ArchiveAnswer:
    """What it says of the volume, of which only its beginning is read."""
    inflater, beginning = Inflater(), b""
    for piece in _pieces(order.archive):
        for data in inflater.feed(piece):
            beginning += data[: volume_archive.BEGINNING - len(beginning)]
        if len(beginning) >= volume_archive.BEGINNING:
            break
    return ArchiveAnswer(description=volume_archive.found_in(beginning))


def _pieces(fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, _PIECE):
        yield piece


def _answer(order: ArchiveOrder, compressor: _Compressor | None) -> ArchiveAnswer:
    try:
        if order.task == "write":
            return write_archive(order, compressor)
        return read_archive(order) if order.task == "read" else describe_archive(order)
    except (ArchiveRefused, InflateError, TarError, volume_archive.MalformedDescription) as error:
        return ArchiveAnswer(str(error)[:_WORDS], refused=True)
    except MemoryError:
        return ArchiveAnswer(f"it takes more than {_MEMORY} bytes of memory", refused=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return ArchiveAnswer(why(error)[:_WORDS], full=full)


def _loaded(order: ArchiveOrder) -> _Compressor | None:
    """Load all that decompressing and compressing need: nothing can be loaded after the root has changed."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    importlib.import_module("isal.isal_zlib")
    importlib.import_module("isal.igzip_lib")
    msgspec.msgpack.encode(ArchiveAnswer())
    volume_archive.header("")
    "é".encode(sys.getfilesystemencoding(), "surrogateescape")
    return zstd.ZstdCompressor() if order.compress else None


def main(arguments: list[str]) -> None:
    """The one argument is the order, as JSON."""
    order = msgspec.json.decode(arguments[0], type=ArchiveOrder)
    if not stat.S_ISDIR(os.fstat(order.directory).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", f"descriptor {order.directory}")
    os.umask(0)
    os.nice(_NICE)
    compressor = _loaded(order)
    privileges.limit(_DESCRIPTORS, _MEMORY)
    confinement.confine(order.directory, _CAPABILITIES[order.task], order.parent)
    seccomp.confine(seccomp.TREES.values(), sockets=False)
    answer = _answer(order, compressor)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))
    sys.stdout.buffer.flush()
