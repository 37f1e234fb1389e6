"""A blob's compressed bytes on disk while it comes: ranges arrive in any order, one thread reads from the
beginning, and what is there is still there after a broken connection or a restart.

Names are relative to the staging directory, the working directory of the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator

from crib.backends.images.messages import blob_name
from crib.backends.images.worker.free_space import EVERY, require_free

_READ = 1 << 20
_WAKE = 1 << 18
"""Bytes that a waiting reader is woken for."""
_GRAIN = 1 << 16
"""Holes are reported in the file system's blocks; no block is larger than this."""


PATIENCE = 0.3
"""Seconds in total that a reader may wait for bytes while somebody else wants its place."""
_LOOK_SECONDS = 0.1


class SpoolClosed(Exception):
    """For the loop: nobody reads any more. For the reader: it is to stop. Who closed it knows why."""


class Starved(Exception):
    """For the thread that reads: too little comes, and others want its place."""


class Spool:
    """One blob of `size` bytes. `write`, `stop`, `reset` and `close` belong to the loop, `chunks` and
    `leave` to the thread that reads."""

    def __init__(self, digest: str, size: int, min_free: int, name: str = "") -> None:
        """Open what an earlier attempt left, or make it; `name` replaces the blob's own."""
        self.name = name or blob_name(digest)
        self.digest = digest
        self.size = size
        self._min_free = min_free
        self._unchecked = 0
        self._condition = threading.Condition()
        self._wanted = 0
        self._stopped = False
        self._left = False
        self._ends: dict[int, int] = {}  # parts ahead of the edge, by where they begin
        self._starts: dict[int, int] = {}  # and by where they end
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.name, flags, 0o600)
        try:
            self.resumed = _whole_prefix(self._fd, size)
            os.ftruncate(self._fd, self.resumed)
            os.utime(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self.edge = self.resumed
        """Everything before it is here."""
        self.received = self.resumed
        """Bytes that are here, in one piece or not."""
        self.whole = asyncio.Event()
        """Whether all bytes are here, for the loop to wait for."""
        if self.edge >= size:
            self.whole.set()

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes that are not here yet where they belong. SpoolClosed when nobody reads any more;
        Exhausted or OSError when the disk is full."""
        if self._left:
            raise SpoolClosed
        length = len(data)
        self._unchecked += length
        if self._unchecked >= EVERY:
            self._unchecked = 0
            require_free(self._fd, 0, self._min_free, f"blob {self.digest}")
        try:
            written = os.pwrite(self._fd, data, offset)
            while written < length:
                written += os.pwrite(self._fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from error
        self.received += length
        if offset == self.edge:
            self._advance(offset + length)
            return
        start = self._starts.pop(offset, offset)
        self._starts[offset + length] = start
        self._ends[start] = offset + length

    def _advance(self, edge: int) -> None:
        while (end := self._ends.pop(edge, None)) is not None:
            del self._starts[end]
            edge = end
        self.edge = edge
        if edge >= self.size:
            self.whole.set()
        if edge >= self._wanted:
            with self._condition:
                self._condition.notify()

    def stop(self) -> None:
        """No further bytes will come: the reader gets SpoolClosed."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def check(self) -> None:
        """For the thread: SpoolClosed when it is to stop."""
        if self._stopped:
            raise SpoolClosed

    def chunks(self, is_wanted: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
        """For the thread: the bytes from the beginning to the end; blocks. Starved when it waits for them
        while `is_wanted` says that somebody else could use the time."""
        at = 0
        waited = 0.0
        while at < self.size:
            with self._condition:
                self._wanted = min(at + _WAKE, self.size)
                while self.edge < self._wanted and not self._stopped:
                    if waited >= PATIENCE and is_wanted():
                        raise Starved
                    began = time.monotonic()
                    self._condition.wait(_LOOK_SECONDS)
                    waited += time.monotonic() - began
                edge = self.edge
            while at < edge:
                self.check()
                data = os.pread(self._fd, min(_READ, edge - at), at)
                if not data:
                    raise OSError(errno.EIO, "ends before what was written to it", self.name)
                at += len(data)
                yield data
            self.check()

    def leave(self) -> None:
        """The thread reads no more."""
        self._left = True

    def reset(self, *, empty: bool) -> None:
        """Ready for another reader; with `empty` all bytes are forgotten."""
        self._left = False
        self._stopped = False
        self._wanted = 0
        if empty:
            os.ftruncate(self._fd, 0)
            self._ends.clear()
            self._starts.clear()
            self.resumed = self.edge = self.received = 0
            self.whole.clear()

    def is_right(self) -> bool:
        """Whether the blob is whole and has its digest; blocks."""
        if self.edge < self.size:
            return False
        algorithm, _, expected = self.digest.partition(":")
        digest = hashlib.new(algorithm)
        at = 0
        while data := os.pread(self._fd, _READ, at):
            digest.update(data)
            at += len(data)
        return digest.hexdigest() == expected

    def close(self, *, keep: bool) -> None:
        """Let go of the file; with `keep` the bytes up to the edge wait for the next attempt."""
        try:
            if keep and self.edge:
                os.ftruncate(self._fd, self.edge)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.name)
        finally:
            os.close(self._fd)


def _whole_prefix(fd: int, size: int) -> int:
    """Bytes at the beginning that seem to have been written; the digest decides."""
    length = min(os.fstat(fd).st_size, size)
    if not length:
        return 0
    try:
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
    except OSError:  # no such thing on this file system
        return 0
    # What ends inside a block looks whole to the end of the block.
    return max(0, min(hole, length) - 1) // _GRAIN * _GRAIN
