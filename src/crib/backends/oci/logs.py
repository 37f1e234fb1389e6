"""Logs of containers: files that a pod may exchange, on file systems that may not answer.

So whatever touches one runs in a thread for files of others, within a bound, and owned by the pod: nobody but
the pod waits for its log.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import stat
from collections.abc import Callable
from typing import TypeVar

from crib.backends.oci.late import clear_away
from crib.backends.oci.replay import latest_output
from crib.host.threads import FOREIGN, Job, Overdue

_log = logging.getLogger(__name__)
T = TypeVar("T")

LOG_TIME = 2.0
"""Seconds that a look at a log, or a change of its name, may take."""
_LONGEST_WORDS = 4096
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def log_job(what: str, path: str, pod: str, late: Callable[[], None] = lambda: None) -> Job:
    """`what` is done with the log at `path`, such as `reading`."""
    return Job(f"{what} the log {path}", owner=pod, limit=LOG_TIME, late=late)


def open_log(path: str) -> io.FileIO:
    """Open it to be read; OSError (EINVAL) for anything but a regular file, which is not opened. Blocks."""
    place = os.open(path, _PLACE)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        return io.FileIO(os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    finally:
        os.close(place)


async def read_words(path: str, pod: str) -> bytes:
    """A log that may be a few last words and nothing else; empty for a longer one, or if it cannot be had."""
    try:
        return await FOREIGN.run(log_job("reading", path, pod), _words, path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        _log.warning("the last words of a container are not known: %s: %s", path, error)
        return b""


def _words(path: str) -> bytes:
    with open_log(path) as file:
        data = file.read(_LONGEST_WORDS + 1) or b""
    return data if len(data) <= _LONGEST_WORDS else b""


class OpenLog:
    """A log that is read for a while. Close it when done; OSError (`Overdue`) from all of it."""

    def __init__(self, path: str, pod: str) -> None:
        self._path = path
        self._pod = pod
        self._file: io.FileIO | None = None
        self._is_stuck = False

    async def open(self) -> None:
        await self._ask("opening", self._open)

    async def size(self) -> int:
        """Bytes that it has now."""
        return await self._ask("looking at", lambda: os.fstat(self._there().fileno()).st_size)

    async def latest(self, size: int, most: int, known: dict[str, int]) -> dict[str, bytes]:
        """See `latest_output`."""
        return await self._ask("reading", lambda: latest_output(self._there().fileno(), size, most, known))

    async def close(self) -> None:
        """Safe to repeat. A close may wait for the file system too (a flush of FUSE and NFS)."""
        if not self._is_stuck:  # else whoever is late closes it
            with contextlib.suppress(Overdue):
                await self._ask("closing", self._close)

    async def _ask(self, what: str, work: Callable[[], T]) -> T:
        job = log_job(what, self._path, self._pod, late=self._end_late)
        try:
            return await FOREIGN.run(job, work)
        except Overdue:
            self._is_stuck = True
            raise

    def _end_late(self) -> None:
        self._is_stuck = False
        clear_away(f"closing the log {self._path}", self.close())

    def _open(self) -> None:
        self._file = open_log(self._path)

    def _there(self) -> io.FileIO:
        if self._file is None:
            raise OSError(errno.EBADF, "it is not open", self._path)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
