"""What a shim says of itself: it writes to a fifo in its bundle, which somebody has to read.

A shim whose fifo is full waits, and its containers with it. So it is read always, and told within a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re

from crib.host.threads import OURS, Job

_log = logging.getLogger(__name__)

LOG_FIFO = "log"
READ_BYTES = 16 << 10
LONGEST_LINE = 2000
"""Characters of a line that are told."""
LINES = 20
"""Lines of one shim that are told in `PERIOD` seconds; the rest are counted."""
PERIOD = 10.0
_LEVEL = re.compile(r"\blevel=(\w+)")
_LEVELS = {"error": logging.WARNING, "fatal": logging.WARNING, "panic": logging.WARNING}


class ShimLog:
    """Reads one shim's fifo until it is closed."""

    def __init__(self, instance: str, fd: int) -> None:
        self._instance = instance
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._told = 0
        self._left_out = 0
        self._period: asyncio.TimerHandle | None = None
        self._loop.add_reader(fd, self._read)

    @classmethod
    async def open(cls, instance: str, bundle: str) -> ShimLog:
        """Make the fifo, if it is not there. OSError."""
        job = Job(f"opening the log of shim {instance}", owner=instance)
        return cls(instance, await OURS.run(job, _open, f"{bundle}/{LOG_FIFO}"))

    def close(self) -> None:
        """Safe to repeat."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._period is not None:
            self._period.cancel()
            self._next_period()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = self._rest + os.read(self._fd, READ_BYTES)
            *lines, self._rest = data.split(b"\n")
            for line in lines:
                self._tell(line.decode("utf-8", "replace"))
            if len(self._rest) > READ_BYTES:
                self._rest = b""

    def _tell(self, line: str) -> None:
        if not line.strip():
            return
        if self._told >= LINES:
            self._left_out += 1
            return
        self._told += 1
        if self._period is None:
            self._period = self._loop.call_later(PERIOD, self._next_period)
        found = _LEVEL.search(line)
        level = _LEVELS.get(found[1], logging.DEBUG) if found else logging.INFO
        _log.log(level, "shim %s: %s", self._instance, line[:LONGEST_LINE])

    def _next_period(self) -> None:
        self._period = None
        if self._left_out:
            _log.warning("shim %s: %d more lines were left out", self._instance, self._left_out)
        self._told = self._left_out = 0


def _open(path: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    # For writing too: so a shim that opens it does not wait for us, and its end is no end of the fifo.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
