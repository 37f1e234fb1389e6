"""SIGUSR1, in a process of its own: also while its loop hangs."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crib.observe.insight import DUMPS_KEPT

BOUND = 60.0
PROGRAM = """
import asyncio, contextlib, os, sys
from types import SimpleNamespace
from crib.model.caller import CallObject
from crib.model.settings import LogSettings
from crib.observe import logs
from crib.observe.insight import LoopInsight
from crib.observe.lag import LoopWatch

def hang_in_the_kernel():
    print("hangs", flush=True)
    os.read(0, 1)

async def main():
    logs.set_up(LogSettings())
    node = SimpleNamespace(
        describe=lambda text: CallObject(),
        abandon=SimpleNamespace(under_way=lambda: []),
        held_locks=lambda: iter(()),
        admission=SimpleNamespace(load=SimpleNamespace(places=4, making=0, ending=0, overdue=0, queued=0)),
    )
    with LoopInsight(LoopWatch(), sys.argv[1]).ready(node):
        hang_in_the_kernel()
    print("over", flush=True)
    os.kill(os.getpid(), 10)
    print("alive", flush=True)

asyncio.run(main())
"""


@contextmanager
def hanging(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose loop hangs until it gets a byte."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def dumps(directory: Path, more_than: set[str]) -> list[Path]:
    """Once there is another one, and it is whole."""
    deadline = time.monotonic() + BOUND
    while True:
        found = sorted(directory.iterdir())
        if {one.name for one in found} - more_than and "== log" in found[-1].read_text():
            return found
        assert time.monotonic() < deadline
        time.sleep(0.01)  # a file system tells nobody


def test_a_loop_that_hangs_in_the_kernel_is_shown_with_what_it_hangs_in(tmp_path: Path) -> None:
    with hanging(tmp_path) as process:
        process.send_signal(signal.SIGUSR1)
        (path,) = dumps(tmp_path, set())
        text = path.read_text()
        assert "    hang_in_the_kernel (<string>:" in text
        assert "== tasks\n1: Task-1\n    main (<string>:" in text
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_few_dumps_are_kept_and_the_process_goes_on_after_them(tmp_path: Path) -> None:
    names: set[str] = set()
    with hanging(tmp_path) as process:
        for _ in range(DUMPS_KEPT + 2):
            process.send_signal(signal.SIGUSR1)
            found = dumps(tmp_path, names)
            names |= {one.name for one in found}
        assert len(names) == DUMPS_KEPT + 2
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("x")
        process.stdin.flush()
        assert process.stdout.readline() == "over\n"
        assert process.stdout.readline() == "alive\n"
        process.wait(BOUND)
        earlier = tmp_path / sorted(names)[-2]  # the last one is told after it is there, maybe never
        assert f"SIGUSR1: what the daemon is at is in {earlier}" in process.stderr.read()
    assert len(os.listdir(tmp_path)) == DUMPS_KEPT


def test_what_cannot_be_written_is_said_in_the_log(tmp_path: Path) -> None:
    with hanging(tmp_path / "none") as process:
        process.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        line = process.stderr.readline()
    assert "a dump cannot be written below" in line


def test_a_burst_of_signals_makes_one_dump_or_a_few(tmp_path: Path) -> None:
    with hanging(tmp_path) as process:
        for _ in range(100):
            process.send_signal(signal.SIGUSR1)
        found = dumps(tmp_path, set())
        assert process.poll() is None
    assert 1 <= len(found) <= DUMPS_KEPT
