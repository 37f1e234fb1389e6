"""The daemon's share of a busy CPU, which the programs that it starts do not inherit.

A nice value belongs to a thread, and new threads inherit it unless SCHED_RESET_ON_FORK is set (sched(7)).
With that flag new threads and programs begin at 0, as SCHED_OTHER. So each of our threads gets its value
individually, even those that gRPC makes, and no program or container runs with our priority.

The OOM score is the opposite: children inherit it, so it changes for the moment in which a child is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator

from crib.host.files import read_small

_log = logging.getLogger(__name__)

NICE_AGAIN = 1.0
"""Seconds between two looks for threads that have come since; gRPC makes some when it needs them."""
_THREADS = "/proc/self/task"
_AUTOGROUP = "/proc/self/autogroup"


class Share:
    """What `nice` (-20 to -1) asks for."""

    def __init__(self, nice: int) -> None:
        self._nice = nice
        self._session_done = False
        self._told: set[str] = set()

    async def keep(self) -> None:
        """So that callers are answered while pods and what starts them want all CPUs."""
        while True:
            for problem in self.raise_all():
                _log.warning("nice = %d: %s", self._nice, problem)
            await asyncio.sleep(NICE_AGAIN)

    def raise_all(self) -> list[str]:
        """Raise what is not raised yet; returns what failed and was not reported before."""
        problems = []
        if not self._session_done:
            try:
                raise_session(self._nice)
                self._session_done = True
            except OSError as error:  # the threads are another matter
                problems.append(f"the session keeps its priority: {error.strerror}")
        try:
            raise_threads(self._nice)
        except OSError as error:
            problems.append(f"threads keep their priority: {error.strerror}")
        fresh = [problem for problem in problems if problem not in self._told]
        self._told.update(fresh)
        return fresh


def raise_threads(nice: int) -> int:
    """Give `nice` to all threads of this process that do not have it; returns how many there were.

    A policy that the process was started with, such as SCHED_FIFO, is that of its first thread, and is given
    to all threads. PermissionError without CAP_SYS_NICE.
    """
    raised, first = 0, os.getpid()
    policy, param = os.sched_getscheduler(first) | os.SCHED_RESET_ON_FORK, os.sched_getparam(first)
    for name in os.listdir(_THREADS):
        thread = int(name)
        with contextlib.suppress(ProcessLookupError):  # it has ended
            # Both are looked at: one that was started with this value would hand it on.
            if os.getpriority(os.PRIO_PROCESS, thread) != nice or os.sched_getscheduler(thread) != policy:
                os.sched_setscheduler(thread, policy, param)
                os.setpriority(os.PRIO_PROCESS, thread, nice)
                raised += 1
    return raised


def raise_session(nice: int) -> bool:
    """The same for our session as a whole, if the kernel divides CPUs among sessions first.

    It does so for sessions in the root of the cpu controller (sched(7), "The autogroup feature"). With a
    hundred monitors and runtimes, each a session, all of our threads together would get a hundredth. Programs
    that we start without their own session get a part of it. False if we lead no session, or the kernel has
    no such groups.
    """
    if os.getsid(0) != os.getpid():
        return False
    try:
        with open(_AUTOGROUP, "w", encoding="ascii") as file:
            file.write(str(nice))
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def lent_oom_score(score: int | None) -> Iterator[None]:
    """Have another OOM score for the moment in which a child is made.

    Afterwards it would be too late: a runtime forks within half a millisecond.
    """
    if score is None:
        yield
        return
    ours = _read_score()
    if ours != score:
        _write_score(score)
    try:
        yield
    finally:
        if ours != score:
            _write_score(ours)


def _read_score() -> int:
    return int(read_small("/proc/self/oom_score_adj"))


def _write_score(score: int) -> None:
    # To go below one's own takes CAP_SYS_RESOURCE; without it the child keeps ours.
    with contextlib.suppress(PermissionError), open("/proc/self/oom_score_adj", "wb") as file:
        file.write(b"%d" % score)
