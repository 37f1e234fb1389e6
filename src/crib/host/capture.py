"""Bounded pipes to and from a program, served by the event loop."""

from __future__ import annotations

import asyncio
import fcntl
import os
from types import TracebackType
from typing import Self

_CHUNK = 65536


class _Pipe:
    """One pipe: the child's end blocks and is closed after the start, ours never blocks."""

    child_end: int | None
    _own_end: int | None

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_child_end()
        self._close_own_end()

    def _close_child_end(self) -> None:
        if self.child_end is not None:
            os.close(self.child_end)
            self.child_end = None

    def _close_own_end(self) -> None:
        if self._own_end is not None:
            self._forget(self._own_end)
            os.close(self._own_end)
            self._own_end = None

    def _forget(self, fd: int) -> None:
        raise NotImplementedError


class Capture(_Pipe):
    """What a program writes: the first `limit` bytes; the rest is read and dropped, so it never blocks."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        # One buffer: a list of what came would cost a program that writes two bytes at a time twenty times
        # its output in our memory.
        self._data = bytearray()
        self.truncated = False
        self._own_end, self.child_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._own_end, False)

    def start(self) -> None:
        """Begin to read; to be called once the program has its end."""
        self._close_child_end()
        if self._own_end is not None:
            self._loop.add_reader(self._own_end, self._read_some)

    def finish(self) -> bytes:
        """All that was written until now, without waiting for the end of the stream.

        The program has ended, so what it wrote is in the pipe; but something that it left in the background
        may hold the pipe open for ever, and may go on writing: so no more is read than the pipe can hold.
        """
        budget = 0 if self._own_end is None else fcntl.fcntl(self._own_end, fcntl.F_GETPIPE_SZ)
        while budget > 0 and self._own_end is not None and (count := self._read_some()):
            budget -= count
        self._close_own_end()
        data = bytes(self._data)
        self._data.clear()
        return data

    def _read_some(self) -> int:
        if self._own_end is None:
            return 0
        try:
            data = os.read(self._own_end, _CHUNK)
        except BlockingIOError:
            return 0
        if not data:
            self._close_own_end()
            return 0
        room = self._limit - len(self._data)
        if len(data) > room:
            self.truncated = True
        if room > 0:
            self._data += data[:room]
        return len(data)

    def _forget(self, fd: int) -> None:
        self._loop.remove_reader(fd)


class Feed(_Pipe):
    """What a program reads. Always a pipe: some runtimes give /dev/null away (host/null_device)."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._left = memoryview(data)
        self.child_end, self._own_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._own_end, False)

    def start(self) -> None:
        """Begin to write; to be called once the program has its end."""
        self._close_child_end()
        self._write_some()
        if self._own_end is not None:
            self._loop.add_writer(self._own_end, self._write_some)

    def _write_some(self) -> None:
        if self._own_end is None:
            return
        try:
            if self._left:
                self._left = self._left[os.write(self._own_end, self._left) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not read its input: its exit code says why
            self._left = self._left[:0]
        if not self._left:
            self._close_own_end()

    def _forget(self, fd: int) -> None:
        self._loop.remove_writer(fd)
