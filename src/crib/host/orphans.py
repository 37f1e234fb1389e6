"""Monitors and stray processes come to the daemon when their parent ends, not to an init that reaps late."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import dataclass

from crib.host import adoption, libc
from crib.host.processes import children, children_lock

_log = logging.getLogger(__name__)

REAP_EVERY = 1.0
"""Seconds between two looks for orphans that have ended."""


def adopt_orphans() -> None:
    """From now on, for as long as the running loop lasts.

    Not by SIGCHLD, which comes for each program, too: it costs the loop two turns, and the end of what is
    waited for is told by a descriptor anyway.
    """
    become_subreaper()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it were ignored, the kernel would take our exit codes
    _reap_all()


def _reap_all() -> None:
    """Those that have ended. That may take a descriptor."""
    try:
        reap_orphans()
    except OSError as error:
        _log.warning("reaping orphans: %s; trying again in %.0f s", error, REAP_EVERY)
    asyncio.get_running_loop().call_later(REAP_EVERY, _reap_all)


def become_subreaper() -> None:
    """Adopt the orphans of all descendants from now on; they are collected with `reap_orphans`."""
    libc.set_child_subreaper()


@dataclass(frozen=True, slots=True)
class Reaped:
    """An adopted child that ended; `exit_code` is negative for a signal."""

    pid: int
    exit_code: int


def reap_orphans() -> list[Reaped]:
    """Collect the adopted children that have ended. To be called now and then, on the loop of programs.

    One that this loop started hides others from the kernel's cheap answer, and is collected first.
    One that another loop started is left to it; then the list of children is read.
    """
    reaped: list[Reaped] = []
    while (found := _peek(os.P_ALL, 0)) is not None:
        if _collected(found):
            continue
        with children_lock:
            if found in children or adoption.awaited(found):
                reaped += [_reap(pid) for pid in _adopted() if _peek(os.P_PID, pid) is not None]
                break
            reaped.append(_reap(found))
    return reaped


def _collected(pid: int) -> bool:
    """Whether it was one that this loop waits for: its descriptor would have told so a moment later."""
    awaited = children.get(pid) or adoption.awaited(pid)
    return awaited is not None and awaited.collect()


def _peek(kind: int, pid: int) -> int | None:
    """The pid of an ended child, which stays uncollected."""
    try:
        found = os.waitid(kind, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def _reap(pid: int) -> Reaped:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1])
    adoption.keep(pid, code)
    return Reaped(pid, code)


def _adopted() -> list[int]:
    pids: list[int] = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", "rb") as file:
                pids += [int(word) for word in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):  # a thread that ended, or a kernel without the file
            continue
    return [pid for pid in pids if pid not in children and not adoption.awaited(pid)]
