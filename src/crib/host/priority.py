"""The daemon's share of a CPU that many want; what it starts does not get it.

Nice values are of threads, and a thread inherits those of the one that makes it, unless that one has
SCHED_RESET_ON_FORK (sched(7)): its threads and programs begin at 0. So each thread of ours is told by itself,
also those that gRPC makes, and no program or container runs with our priority.
"""

from __future__ import annotations

import contextlib
import os

_THREADS = "/proc/self/task"
_AUTOGROUP = "/proc/self/autogroup"
_POLICY = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK


def raise_threads(nice: int) -> int:
    """Give `nice` (-20 to -1) to all threads of this process that do not have it; how many there were.

    PermissionError without CAP_SYS_NICE.
    """
    raised = 0
    for name in os.listdir(_THREADS):
        thread = int(name)
        with contextlib.suppress(ProcessLookupError):  # it has ended
            # Both are looked at: one that was started with this value would hand it on.
            if os.getpriority(os.PRIO_PROCESS, thread) != nice or os.sched_getscheduler(thread) != _POLICY:
                os.sched_setscheduler(thread, _POLICY, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, nice)
                raised += 1
    return raised


def raise_session(nice: int) -> bool:
    """The same for our session as a whole, where the kernel shares CPUs out among sessions first.

    That is so for sessions in the root of the cpu controller (sched(7), "The autogroup feature"): beside a
    hundred monitors and runtimes, each a session, threads of ours get a hundredth together. Programs that we
    start without a session of their own share in it. False where we lead no session, or the kernel has no
    such groups.
    """
    if os.getsid(0) != os.getpid():
        return False
    try:
        with open(_AUTOGROUP, "w", encoding="ascii") as file:
            file.write(str(nice))
    except FileNotFoundError:
        return False
    return True
