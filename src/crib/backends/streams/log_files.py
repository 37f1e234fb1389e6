"""A container's log, written by the daemon: a file that a pod may exchange, on a disk that may not answer.

All that touches it runs in threads for files of others. A write waits for as long as the file system takes.
The container waits with it; nobody else does. What the file system refuses (a full disk) is lost. The
daemon's log says so, and the container's own log as soon as it can be written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from typing import Protocol

from crib.backends.failures import why
from crib.backends.streams.logs import log_job
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.container import ContainerRecord
from crib.wire.crilog import encode_output

_log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds after which a write is slow: others must not wait for it."""
_NO_THREAD_PAUSE = 1.0
"""Seconds until a write is tried again for which there was no thread, as too many hang."""
_MODE = 0o640
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entries(Protocol):
    """What is to be appended, by threads. OSError when the file takes it not at all or in part."""

    def put_into(self, log: int) -> None:
        """Append it to an open log."""
        ...

    def finish(self, log: int) -> None:
        """The same for what an earlier daemon has left, which may have begun."""
        ...


class LogFile:
    """One at a time uses it; who that is, is the caller's business."""

    def __init__(self, record: ContainerRecord) -> None:
        self.path = record.log_path
        self._container = record.id
        self._pod = record.sandbox_id
        self._fd = -1
        self._is_closed = False
        self._is_slow = False
        self._lost = 0
        self._why = ""

    async def open(self) -> None:
        """Make it, or go on with what there is. OSError for anything but a regular file (`Overdue`)."""
        await FOREIGN.run(log_job("opening", self.path, self._pod), self._open)

    async def open_patiently(self) -> None:
        """The same, however long it takes. Where it cannot be opened, what is written to it is lost."""
        await self._patiently(lambda: self._put(lambda _fd: None), lambda: None)

    async def append(self, entries: Entries, slow: Callable[[], None]) -> None:
        """Returns when it is there, or lost; calls `slow` if that takes long."""
        await self._patiently(lambda: self._put(entries.put_into), slow)

    async def finish(self, entries: Entries) -> None:
        """The same for what an earlier daemon has left."""
        await self._patiently(lambda: self._put(entries.finish), lambda: None)

    async def note(self, words: str) -> None:
        """A line of our own, as of standard error."""
        line = encode_output(f"crib: {words}\n".encode(), "stderr", time.time_ns())
        await self._patiently(lambda: self._put(lambda fd: _write(fd, line)), lambda: None)

    async def reopen(self) -> None:
        """Go on with the file that has its name now; one is made if there is none."""
        await FOREIGN.run(log_job("reopening", self.path, self._pod), self._open)

    async def renew(self) -> None:
        """Have a new file take its name. OSError when nothing was done."""
        await FOREIGN.run(log_job("making a new", self.path, self._pod), self._renew)

    async def close(self) -> None:
        """Safe to repeat. A close may wait for the file system too."""
        with contextlib.suppress(Overdue):
            await FOREIGN.run(log_job("closing", self.path, self._pod), self._close)

    async def _patiently(self, work: Callable[[], None], slow: Callable[[], None]) -> None:
        begun, ended = False, asyncio.Event()

        def body() -> None:
            nonlocal begun
            begun = True
            work()

        what = f"writing to the log {self.path}"
        job = Job(what, owner=self._pod, limit=PATIENCE, late=ended.set)
        while True:
            try:
                await FOREIGN.run(job, body)
                self._is_slow = False
                return
            except Overdue:
                slow()
                if not self._is_slow:
                    self._is_slow = True
                    _log.warning(
                        "container %s waits for its log: %s takes no write", self._container, self.path
                    )
                if begun:
                    await ended.wait()
                    return
                await asyncio.sleep(_NO_THREAD_PAUSE)

    def _put(self, write: Callable[[int], None]) -> None:
        """In a thread."""
        try:
            if self._fd < 0:
                self._open()
            if self._lost:
                words = f"crib: {self._lost} writes to this log were lost: {self._why}\n"
                _write(self._fd, encode_output(words.encode(), "stderr", time.time_ns()))
                _log.warning("the log %s can be written again; %s writes were lost", self.path, self._lost)
                self._lost = 0
            write(self._fd)
        except OSError as error:
            self._why = why(error)
            if self._lost == 0:
                _log.warning("output of container %s is lost: %s: %s", self._container, self.path, self._why)
            self._lost += 1

    def _open(self) -> None:
        self._take(_opened(self.path, _FLAGS))

    def _renew(self) -> None:
        fresh = f"{self.path}.tmp"
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(fresh).st_mode):
                raise OSError(errno.EEXIST, "it exists and is not a regular file", fresh)
            os.unlink(fresh)
        fd = _opened(fresh, _FLAGS | os.O_EXCL)
        try:
            os.rename(fresh, self.path)
        except BaseException:
            os.close(fd)
            os.unlink(fresh)
            raise
        self._take(fd)

    def _take(self, fd: int) -> None:
        """A thread that comes too late may bring one to a log that was closed meanwhile."""
        if self._is_closed:
            os.close(fd)
            return
        before, self._fd = self._fd, fd
        if before >= 0:
            os.close(before)

    def _close(self) -> None:
        self._is_closed = True
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _opened(path: str, flags: int) -> int:
    fd = os.open(path, flags, _MODE)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is not a regular file", path)


def _write(fd: int, line: bytes) -> None:
    os.write(fd, line)
