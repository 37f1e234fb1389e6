"""What our threads have, and do not hand on; in a process of its own, as priorities outlive a test."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from crib.host import priority

PROGRAM = """
import os, subprocess
from crib.host.priority import raise_threads
os.nice({before})
print(raise_threads(-10), raise_threads(-10), os.getpriority(os.PRIO_PROCESS, 0), flush=True)
subprocess.run(["nice"], check=True)
"""


@pytest.mark.root
@pytest.mark.parametrize("before", [0, -10])
def test_what_a_thread_starts_has_no_priority_whatever_the_thread_was_started_with(before: int) -> None:
    program = PROGRAM.format(before=before)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["1 0 -10", "0"]


AS_FIFO = """
import os, subprocess, threading
from crib.host.priority import raise_threads
try:
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(3))
except PermissionError:
    raise SystemExit(77)
told, ended = threading.Event(), threading.Event()
thread = threading.Thread(target=lambda: (told.set(), ended.wait()))
thread.start()
told.wait()
raise_threads(-10)
for one in (os.getpid(), thread.native_id):
    print(os.sched_getscheduler(one) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(one).sched_priority)
ended.set()
print(raise_threads(-10), flush=True)
subprocess.run(["chrt", "--pid", "0"], check=True)
"""


@pytest.mark.root
def test_a_real_time_policy_that_the_daemon_was_started_with_is_kept_for_it_alone() -> None:
    done = subprocess.run([sys.executable, "-c", AS_FIFO], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this cgroup gets no real-time share (cgroup-v1, RT_GROUP_SCHED)")
    assert done.returncode == 0, done.stderr
    ours, threads, again, *program = done.stdout.splitlines()
    assert (ours, threads, again) == ("1 3", "1 3", "0")
    assert program[0].endswith("SCHED_OTHER")


def test_a_session_that_cannot_be_raised_keeps_no_thread_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []

    def refuse(nice: int) -> bool:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def raise_threads(nice: int) -> int:
        raised.append(nice)
        return 1

    monkeypatch.setattr(priority, "raise_session", refuse)
    monkeypatch.setattr(priority, "raise_threads", raise_threads)
    share = priority.Share(-10)
    assert share.raise_all() == ["the session keeps its priority: Resource temporarily unavailable"]
    assert share.raise_all() == []
    assert raised == [-10, -10]
