"""The file of a layer while it is written, and a thread that works beside its writer."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from crib.backends.images.rest_digest import windows
from crib.backends.images.worker.free_space import EVERY, require_free
from crib.host import libc
from crib.wire.erofs import DATA_OFFSET
from crib.wire.tar_member import Member

_PIECE = 1 << 20
_DEPTH = 4


def rounded(offset: int) -> int:
    """The next multiple of 4096."""
    return offset + -offset % DATA_OFFSET


class LayerFile:
    """The layer's file: writes whole pieces, and names the file when the disk refuses.

    With ``early`` the kernel is asked now and then to start writing out, so that ``sync`` is short.
    """

    def __init__(self, descriptor: int, path: str, *, min_free: int = 0, early: bool = False) -> None:
        self._descriptor = descriptor
        self._path = path
        self._min_free = min_free
        self._early = early
        self._unchecked = 0

    def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data``; OSError names the file, Exhausted when too little would stay free."""
        self._unchecked += len(data)
        if self._unchecked >= EVERY:
            self._look_around()
        try:
            written = os.pwrite(self._descriptor, data, offset)
            while written < len(data):
                written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error

    def _look_around(self) -> None:
        self._unchecked = 0
        require_free(self._descriptor, 0, self._min_free, f"layer file {self._path}")
        if self._early:
            try:
                libc.start_writeback(self._descriptor)
            except OSError:
                # Nothing but speed hangs on it, and some file systems do not have it.
                self._early = False

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """What was written, in pieces; OSError when the file ends before."""
        while length:
            data = os.pread(self._descriptor, min(length, _PIECE), offset)
            if not data:
                raise OSError(errno.EIO, "ends before what was written to it", self._path)
            yield data
            offset += len(data)
            length -= len(data)

    def windows(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where there may be more than holes, as rest_digest wants it."""
        return windows(self._descriptor, start, end)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a range of the file to another place in it."""
        for data in self.read(source, length):
            self.write(target, data)
            target += len(data)

    def sync(self) -> None:
        """fsync(2)."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error

    def drop_cache(self) -> None:
        """Give back the memory that holds what was written and synced."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class Verbatim:
    """The tar as it is, from DATA_OFFSET on: a member's data begins at a multiple of 512 there."""

    def __init__(self) -> None:
        self.written = DATA_OFFSET

    def place(self, member: Member) -> int:
        """Where the data of this member, the next in the tar, lies in the file."""
        return DATA_OFFSET + member.offset

    def data(self, piece: bytes) -> bytes:
        """What this piece of the tar puts at ``written``, which moves on."""
        self.written += len(piece)
        return piece


class Padded(Verbatim):
    """Only the data of members, each padded to 4096."""

    def __init__(self) -> None:
        super().__init__()
        self._reached = 0
        self._next = DATA_OFFSET
        self._open: deque[tuple[int, int]] = deque()

    def place(self, member: Member) -> int:
        offset = self._next
        if member.stored:
            self._open.append((member.offset, member.offset + member.stored))
            self._next = rounded(offset + member.stored)
        return offset

    def data(self, piece: bytes) -> bytes:
        base = self._reached
        self._reached = base + len(piece)
        parts = []
        while self._open:
            start, end = self._open[0]
            if start >= self._reached:
                break
            parts.append(piece[max(0, start - base) : end - base])
            if end > self._reached:
                break
            self._open.popleft()
            parts.append(bytes(-(end - start) % DATA_OFFSET))
        data = b"".join(parts)
        self.written += len(data)
        return data


class StageThread:
    """Calls what it is given, one after the other, in a thread of its own; leaving the block ends the thread.

    The first error of a call is raised by the next ``put`` or by ``finish``; later calls are then dropped.
    """

    def __init__(self, name: str) -> None:
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(_DEPTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._running = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._running = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._error is None:
            # Whatever still waits is not worth doing.
            self._error = error
        self._end()

    def put(self, call: Callable[[bytes], object], data: bytes) -> None:
        """Have ``call(data)`` done; waits while the queue is full."""
        if self._error is not None:
            raise self._error
        self._queue.put(lambda: call(data))

    def finish(self) -> None:
        """Wait until everything is done."""
        self._end()
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        if self._running:
            self._running = False
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            if self._error is None:
                try:
                    call()
                except BaseException as error:
                    self._error = error
