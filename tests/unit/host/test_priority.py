"""What our threads have, and do not hand on; in a process of its own, as priorities outlive a test."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
