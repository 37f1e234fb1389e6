"""What a worker writes to its standard error, as lines of our log: bounded in size and rate, as it may be
anything by then, and without control characters. A worker that writes faster has to wait.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from crib.wire.registry import printable

MAX_LINE = 1000
"""Bytes of one line that are kept."""
MAX_LINES = 100
"""Lines that are logged in MINUTE_SECONDS; the others are counted."""
MINUTE_SECONDS = 60.0
READ_BYTES = 16 << 10
"""Bytes after which nothing is read for PAUSE_SECONDS."""
CHUNK_BYTES = 64 << 10
"""Of one read: what a pipe holds."""
PAUSE_SECONDS = 0.2


class WorkerLog:
    """The reading end of a pipe, served by the running loop until the worker has closed its own; each line is
    given to `tell`."""

    def __init__(
        self, tell: Callable[[str], None], *, lines: int = MAX_LINES, burst: int = READ_BYTES
    ) -> None:
        """`lines` are logged in MINUTE_SECONDS, and after `burst` bytes nothing is read for PAUSE_SECONDS."""
        self._tell = tell
        self._most_lines, self._burst = lines, burst
        self._loop = asyncio.get_running_loop()
        self._fd, self.worker_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._line = bytearray()
        self._window = self._loop.time()
        self._lines = 0
        self._taken = 0
        self._pause: asyncio.TimerHandle | None = None
        self._open = True

    def start(self) -> None:
        """The worker has its end, or never will: ours of it is closed, and what it writes is read."""
        os.close(self.worker_end)
        self._resume()

    def close(self) -> None:
        """Read what is there and no more; safe to repeat."""
        if self._open:
            self._read()
        self._end()

    def _resume(self) -> None:
        self._pause = None
        self._taken = 0
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, min(self._burst, CHUNK_BYTES))
        except BlockingIOError:
            return
        if self._lines > self._most_lines and self._loop.time() - self._window < MINUTE_SECONDS:
            self._lines += data.count(b"\n")  # none of them is told
            self._line.clear()
        else:
            self._take(data)
        self._taken += len(data)
        if not data:
            self._end()
        elif self._taken >= self._burst and self._pause is None:
            self._loop.remove_reader(self._fd)
            self._pause = self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _take(self, data: bytes) -> None:
        for part in data.splitlines(keepends=True):
            self._line += part[: MAX_LINE - len(self._line)]
            if part.endswith((b"\n", b"\r")):
                self._told()

    def _told(self) -> None:
        line = self._line.strip()
        self._line.clear()
        now = self._loop.time()
        if now - self._window >= MINUTE_SECONDS:
            self._tell_of_others()
            self._window, self._lines = now, 0
        self._lines += bool(line)
        if self._lines <= self._most_lines and (text := printable(line.decode(errors="replace")).strip()):
            self._tell(text)

    def _tell_of_others(self) -> None:
        if self._lines > self._most_lines:
            self._tell(f"{self._lines - self._most_lines} lines more, which are left out")

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        self._told()
        self._tell_of_others()
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
