"""Processes that are not our children: named by pid and start time, held by a pidfd (pidfd_open(2))."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass

from crib.host.files import read_small

_PF_FORKNOEXEC = 0x40


def open_pidfd(pid: int) -> int:
    """A pidfd for any process; ProcessLookupError when there is none. The caller closes it."""
    return os.pidfd_open(pid)


def signal_process(pid: int, number: int, started: int | None = None) -> bool:
    """Signal any process; False when it is gone, or its `start_time` is not `started`.

    The descriptor is opened before the check, so what was checked is what gets the signal.
    """
    try:
        pidfd = open_pidfd(pid)
    except ProcessLookupError:
        return False
    try:
        if started is not None and not is_running(pid, started):
            return False
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


async def wait_pidfd(pidfd: int, timeout: float | None = None) -> bool:
    """Wait until the process behind `pidfd` has ended, child or not; False after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    own_fd = os.dup(pidfd)  # the loop keeps one callback a descriptor, and others may be waiting too

    def wake() -> None:
        loop.remove_reader(own_fd)
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(own_fd, wake)
    try:
        async with asyncio.timeout(timeout):
            await ended
    except TimeoutError:
        return ended.done() and not ended.cancelled()
    finally:
        loop.remove_reader(own_fd)
        os.close(own_fd)
    return True


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks after boot (proc(5), stat field 22); None when it is gone.

    A pid with its start time names one process for as long as the machine is up.
    """
    stat = _read_stat(pid)
    return None if stat is None else stat.started


def is_running(pid: int, started: int) -> bool:
    """Whether the process with this `pid` and `start_time` exists and has not ended (a zombie has)."""
    stat = _read_stat(pid)
    return stat is not None and stat.started == started and not stat.has_ended


def awaits_program(pid: int, started: int) -> bool:
    """Whether that process runs and has not called execve(2) since it was forked, as in a created container.

    By PF_FORKNOEXEC (include/linux/sched.h): a fork sets it, an execve past its point of no return clears it.
    """
    stat = _read_stat(pid)
    if stat is None or stat.started != started or stat.has_ended:
        return False
    return bool(stat.flags & _PF_FORKNOEXEC)


@dataclass(frozen=True, slots=True)
class _Stat:
    started: int
    flags: int
    has_ended: bool


def _read_stat(pid: int) -> _Stat | None:
    """What proc(5) has in /proc/PID/stat, fields 3, 9 and 22; None when there is no such process."""
    try:
        stat = read_small(f"/proc/{pid}/stat", 4096)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name, which may hold spaces and parentheses.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return _Stat(started=int(fields[19]), flags=int(fields[6]), has_ended=fields[0] in {b"Z", b"X"})
