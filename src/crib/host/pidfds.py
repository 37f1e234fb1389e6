"""Processes that are not our children: named by pid and start time, held by a pidfd (pidfd_open(2))."""

from __future__ import annotations

import asyncio
import os
import signal


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
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(4096)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name, which may hold spaces and parentheses.
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def is_running(pid: int, started: int) -> bool:
    """Whether the process that `pid` and its `start_time` name is there and has not ended (a zombie has)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(4096)
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = stat[stat.rindex(b")") + 2 :].split()
    return int(fields[19]) == started and fields[0] not in {b"Z", b"X"}
