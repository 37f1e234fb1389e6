"""Decompressing a layer's blob as it arrives: gzip, zstd or nothing, told by its first bytes.

The media type is not believed: registries hold layers whose type and content differ, and runtimes read them.
Output comes in bounded pieces, so that whoever counts them stops a bomb. An archive that is compressed as a
whole is inflated to a file without a name: its members are read by position.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Protocol, cast

from crib.backends.images.worker.free_space import EVERY, require_free
from crib.model.image_settings import TransferSettings

RATIO_GRACE = 64 << 20
"""Bytes that a blob or an archive may unpack to whatever its size; beyond them `max_ratio` counts."""
_PIECE = 1 << 20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
_SNIFFED = 6
_LARGEST_STEP = 1 << 18
_SMALLEST_STEP = 1 << 10


class InflateError(ValueError):
    """The blob is not a whole, valid compressed stream."""


class _Decompressor(Protocol):
    """What isal's and zstd's decompressors have in common here."""

    errors: tuple[type[Exception], ...]

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def feed(self, data: bytes) -> bytes: ...
    def more(self) -> bool: ...


class _Gzip:
    def __init__(self) -> None:
        from isal import igzip_lib, isal_zlib

        # isal's type stub says that the class is an instance.
        damage = cast("type[Exception]", igzip_lib.IsalError)
        self.errors: tuple[type[Exception], ...] = (damage, EOFError)
        self._inner = isal_zlib.decompressobj(31)
        self._full = False

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def feed(self, data: bytes) -> bytes:
        output: bytes = self._inner.decompress(data or self._inner.unconsumed_tail, _PIECE)
        self._full = len(output) == _PIECE
        return output

    def more(self) -> bool:
        # isal keeps output of its own back when the bound was reached, also with no input left.
        return bool(self._inner.unconsumed_tail) or self._full


class _Zstd:
    def __init__(self) -> None:
        # zstd bounds its own memory: windows above 2**27 bytes are refused.
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd

        self.errors: tuple[type[Exception], ...] = (zstd.ZstdError, EOFError)
        self._inner = zstd.ZstdDecompressor()

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def feed(self, data: bytes) -> bytes:
        output: bytes = self._inner.decompress(data, _PIECE)
        return output

    def more(self) -> bool:
        return not self._inner.needs_input


class Inflater:
    """One blob's decompression: ``feed`` its bytes in order, then ``end``."""

    def __init__(self) -> None:
        self.format = ""
        """gzip, zstd or tar; empty until the first bytes have come."""
        self._head = b""
        self._current: _Decompressor | None = None
        self._ended = 0
        self._taken = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The output for these bytes, in pieces of at most 1 MiB; a plain tar comes as it is."""
        if not self.format:
            self._head += data
            if len(self._head) < _SNIFFED:
                return
            data = self._head
            self.format = _sniff(data)
        if self.format == "tar":
            yield data
            return
        start = 0
        while start < len(data):
            # What follows the end of a member is copied: no more than some times the size that members had so
            # far, or a blob of small ones would be copied over and over.
            usual = 4 * self._taken // max(self._ended, 1)
            step = data[start : start + min(max(usual, _SMALLEST_STEP), _LARGEST_STEP)]
            start += len(step)
            self._taken += len(step)
            yield from self._inflate(step)

    def end(self) -> Iterator[bytes]:
        """The blob is complete: the last output. Raises InflateError when it ends too early."""
        if not self.format:
            self.format = "tar"
            if self._head:
                yield self._head
        if self._current is not None:
            raise InflateError(f"the blob ends inside its {self.format} data")

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._current is None:
                # Writers of tapes and of aligned files leave zeros behind the last member.
                if self.format == "gzip":
                    data = data.lstrip(b"\0")
                    if not data:
                        return
                self._current = _Gzip() if self.format == "gzip" else _Zstd()
            current = self._current
            try:
                output = current.feed(data)
                while output:
                    yield output
                    output = current.feed(b"") if not current.eof and current.more() else b""
            except current.errors as error:
                raise InflateError(f"the blob's {self.format} data is damaged: {error}") from error
            data = b""
            if current.eof:
                data = current.unused_data
                self._ended += 1
                self._current = None


def _sniff(head: bytes) -> str:
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or (head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
        return "zstd"
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise InflateError(f"the blob is compressed with {name}; layers are tar, gzip or zstd")
    return "tar"


async def inflate_archive(fd: int, limits: TransferSettings) -> int:
    """A descriptor for the inflated content of a gzip or zstd file; `fd` stays the caller's.

    Takes at most `max_layer_bytes`, and `max_ratio` times the file's size. InflateError says what is wrong
    with the file, Exhausted that `min_free` would not stay. Nothing is left behind, also by a cancellation.
    """
    stop = threading.Event()
    job = asyncio.get_running_loop().run_in_executor(None, _inflate_archive, fd, limits, stop)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        stop.set()
        # The thread reads `fd`, which the caller closes next. It looks at `stop` after each piece.
        await asyncio.wait([job])
        if job.exception() is None:
            os.close(job.result())
        raise


def _inflate_archive(fd: int, limits: TransferSettings, stop: threading.Event) -> int:
    size = os.fstat(fd).st_size
    allowed = min(limits.max_layer_bytes, max(RATIO_GRACE, limits.max_ratio * size))
    inflater = Inflater()
    position = written = unchecked = 0
    with tempfile.TemporaryFile(dir=".", buffering=0) as spool:
        while position < size and not stop.is_set():
            data = os.pread(fd, min(_PIECE, size - position), position)
            if not data:
                break
            position += len(data)
            for piece in inflater.feed(data):
                if stop.is_set():
                    break
                written += len(piece)
                unchecked += len(piece)
                if written > allowed:
                    raise InflateError(f"{size} bytes unpack to more than {allowed}, which is the limit")
                if unchecked >= EVERY:
                    unchecked = 0
                    require_free(spool.fileno(), 0, limits.min_free, "archive")
                _write(spool.fileno(), piece)
        for piece in inflater.end():
            _write(spool.fileno(), piece)
        return os.dup(spool.fileno())


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
