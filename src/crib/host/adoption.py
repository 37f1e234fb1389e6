"""Exit codes of processes that others started and that came to us as a subreaper (prctl(2)).

A program that starts another one, writes its pid to a file and ends (`runc exec --detach`) leaves us that
process. While a caller `expects` one, codes of adopted processes are kept, because it may end before its pid
is known. All calls are made on the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from crib.host.pidfds import open_pidfd

_MOST_KEPT = 4096
UNKNOWN_CODE = 255
"""For a process that another process adopted, or whose code was dropped among too many."""


@dataclass(frozen=True, slots=True)
class _Code:
    serial: int
    code: int


_serials = itertools.count()
_expecting: set[int] = set()
_kept: dict[int, _Code] = {}
_awaited: dict[int, Adopted] = {}


@contextlib.contextmanager
def expecting() -> Iterator[None]:
    """Around the start of the program and the making of `Adopted` for what it started."""
    mark = next(_serials)
    _expecting.add(mark)
    try:
        yield
    finally:
        _expecting.discard(mark)
        # Codes from before the oldest caller that still expects one are useless: pids are used again.
        oldest = min(_expecting, default=None)
        for pid, kept in list(_kept.items()):
            if oldest is not None and kept.serial > oldest:
                break
            del _kept[pid]


def keep(pid: int, code: int) -> None:
    """An adopted process was collected by the reaper of all."""
    if _expecting:
        _kept.pop(pid, None)  # the newest comes last
        _kept[pid] = _Code(next(_serials), code)
        if len(_kept) > _MOST_KEPT:
            del _kept[next(iter(_kept))]


def awaited(pid: int) -> Adopted | None:
    """What the reaper of all must leave to its `collect`."""
    return _awaited.get(pid)


class Adopted:
    """A process that came to us, whose end is collected here, whether or not anybody waits."""

    def __init__(self, pid: int) -> None:
        """OSError (EMFILE) when there is no descriptor left; the reaper of all then collects the process."""
        self.pid = pid
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = -1
        if (kept := _kept.pop(pid, None)) is not None:
            self._exited.set_result(kept.code)
            return
        try:
            self._pidfd = open_pidfd(pid)
        except ProcessLookupError:
            self._exited.set_result(UNKNOWN_CODE)
            return
        _awaited[pid] = self
        self._loop.add_reader(self._pidfd, self.collect)

    async def wait(self) -> int:
        """The exit code, negative for a signal."""
        return await asyncio.shield(self._exited)

    def signal(self, number: int) -> bool:
        """Send a signal; False when it has ended already."""
        if self._pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def collect(self) -> bool:
        """Take up its end, which has come; False where another loop will."""
        if asyncio.get_running_loop() is not self._loop:
            return False
        self._loop.remove_reader(self._pidfd)
        code = _exit_code(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        _awaited.pop(self.pid, None)
        self._exited.set_result(code)
        return True


def _exit_code(pidfd: int) -> int:
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:  # another process adopted it
        return UNKNOWN_CODE
    if result is None:
        return UNKNOWN_CODE
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
