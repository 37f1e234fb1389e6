"""Exit codes of processes that others started and that came to us as a subreaper (prctl(2)).

A program that starts another one, writes its pid to a file and ends (`runc exec --detach`) leaves us that
process. While somebody `expects` one, codes of adopted processes are kept, as it may have ended before its
pid is known. All calls are made on the loop's thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from crib.host.pidfds import open_pidfd, wait_pidfd

_MOST_KEPT = 4096
UNKNOWN_CODE = 255
"""For a process that came to somebody else, or whose code was dropped among too many."""

_expecting: set[object] = set()
_kept: dict[int, int] = {}
_awaited: set[int] = set()


@contextlib.contextmanager
def expecting() -> Iterator[None]:
    """Around the start of the program and the wait for what it started."""
    mark = object()
    _expecting.add(mark)
    try:
        yield
    finally:
        _expecting.discard(mark)
        if not _expecting:
            _kept.clear()


def keep(pid: int, code: int) -> None:
    """An adopted process was collected by the reaper of all."""
    if _expecting:
        _kept[pid] = code
        if len(_kept) > _MOST_KEPT:
            del _kept[next(iter(_kept))]


def is_awaited(pid: int) -> bool:
    """Whether the reaper of all must leave this one alone."""
    return pid in _awaited


async def wait_adopted(pid: int, timeout: float) -> int:
    """Its exit code, negative for a signal; TimeoutError after `timeout` seconds, which leaves it running."""
    if pid in _kept:
        return _kept.pop(pid)
    try:
        pidfd = open_pidfd(pid)
    except ProcessLookupError:
        return UNKNOWN_CODE
    _awaited.add(pid)
    try:
        if not await wait_pidfd(pidfd, timeout):
            raise TimeoutError(f"process {pid} did not end within {timeout:g} s")
        return _collect(pidfd)
    finally:
        _awaited.discard(pid)
        os.close(pidfd)


def _collect(pidfd: int) -> int:
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:  # it came to somebody else
        return UNKNOWN_CODE
    if result is None:
        return UNKNOWN_CODE
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
