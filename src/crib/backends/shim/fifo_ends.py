"""Our ends of the fifos between a shim and us (fifo(7)), opened so that neither side waits for ever.

A shim opens a fifo when it starts a process, and that waits for the other side. So ours are open before: for
reading without waiting, and for writing by way of a reader of our own that is closed again at once. A shim of
runc's kind holds the other end of each fifo too: while nobody reads, the fifo fills and the process waits,
and no process is killed by SIGPIPE for want of a daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
from collections.abc import Iterable
from typing import Self

from crib.backends.shim.fifos import contained_mark
from crib.backends.shim.nouns import Stdio
from crib.host.streams import Source, unread_bytes, widen

_MODE = 0o600
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
_READER_TIME = 5.0
"""Seconds for a shim to open a fifo that it reads, once it has started the process."""
_READER_PERIOD = 0.001
"""Nothing tells that a fifo got a reader, but it is there at the first look mostly."""
END_TIME = 1.0
"""Seconds after a command's end in which its output must have come through its shim. What it left behind and
that holds its output is heard for as long: nothing tells the one from the other."""
_REST = 256 << 10
"""Bytes that are read in that time at most: what was left behind may write for ever."""


def make_fifos(stdio: Stdio) -> None:
    """Make those that are named; only root may open them."""
    for path in named(stdio):
        os.mkfifo(path, _MODE)


def remove_fifos(stdio: Stdio) -> None:
    """With the mark beside them. Safe to repeat."""
    for path in (*named(stdio), contained_mark(stdio)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def named(stdio: Stdio) -> Iterable[str]:
    return (path for path in (stdio.stdin, stdio.stdout, stdio.stderr) if path)


def open_output(path: str) -> int:
    """A fifo, for reading. Until it has had a writer it looks as if more could come."""
    return os.open(path, _READ)


def open_output_again(path: str) -> int:
    """The same, of a fifo that must have had a writer: without one now it has ended."""
    fd = os.open(path, _READ)
    try:
        # Linux reports the end (POLLHUP) only of writers that came after the reader.
        os.close(os.open(path, _WRITE))
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_input(path: str) -> int:
    """A fifo, for writing, which perhaps nobody reads yet."""
    reader = os.open(path, _READ)
    try:
        return os.open(path, _WRITE)
    finally:
        os.close(reader)


def open_input_again(path: str) -> int | None:
    """The same, of one that somebody reads; None when nobody does any more."""
    try:
        return os.open(path, _WRITE)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return None
        raise


async def has_reader(fd: int, ended: asyncio.Future[int]) -> None:
    """Returns when a fifo that we write to is read at its other end, or the process has `ended`.

    What is written before goes nowhere, and what is closed before leaves its reader without an end.
    """
    until = asyncio.get_running_loop().time() + _READER_TIME
    while _polled(fd, select.POLLOUT) & select.POLLERR:
        if ended.done() or asyncio.get_running_loop().time() > until:
            return
        await asyncio.sleep(_READER_PERIOD)


def is_readable(fd: int) -> bool:
    """Whether `read` would tell something: that there are bytes, or that there is no writer any more."""
    return bool(_polled(fd, select.POLLIN) & (select.POLLIN | select.POLLHUP))


def _polled(fd: int, events: int) -> int:
    poll = select.poll()
    poll.register(fd, events)
    found = poll.poll(0)
    return found[0][1] if found else 0


class FifoSource(Source):
    """What a process writes, by way of its shim. It ends with the last writer, and soon after `end`."""

    @classmethod
    def open(cls, path: str) -> Self:
        """Before the shim has it open."""
        fd = open_output(path)
        widen(fd)
        return cls(fd)

    def go_on(self) -> FifoSource | None:
        """Close this one, and have another in its place; None at the end."""
        other = FifoSource(os.dup(self._fd)) if self._fd >= 0 and self._left is None else None
        self.close()
        return other

    def end(self) -> None:
        super().end()
        self._until = asyncio.get_running_loop().time() + END_TIME

    def _take(self, size: int) -> bytes:
        data = os.read(self._fd, size)
        if not data and not is_readable(self._fd):
            raise BlockingIOError
        return data

    def _rest(self) -> int:
        return unread_bytes(self._fd) + _REST
