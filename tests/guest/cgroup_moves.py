"""What favordynmods is worth (ADR 96), measured in a guest:

    script/guest trixie python -m tests.guest.cgroup_moves [ROUNDS]

Prints milliseconds, median and p90, with the option and without it: a process's way into another
cgroup and a command in a container, each after a pause; and a process that is started and ends. The option is
put on and taken away in turn, ROUNDS times. Nothing stays, and the option is as it was.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from crib.client import pods
from crib.host import libc
from crib.host.cgroup_options import FAVOURS_CHANGES, favour_changes, options_of
from tests.guest.node import CHECKOUT, Node, crib, run
from tests.system.labs.daemon import Cri

TREE = "/sys/fs/cgroup"
SETTINGS = 'cgroup_driver = "systemd"\n[network]\nmode = "bridge"\n[handlers.crun]\n'
IMAGE = "localhost/demo:latest"
PAUSE_SECONDS = 0.3
"""Long enough for the next change of a cgroup to wait for a grace period of RCU."""
TIMES = 10


def set_option(*, on: bool) -> None:
    if on:
        favour_changes(TREE)
        return
    context = libc.fspick(TREE)
    try:
        for option in sorted(options_of(TREE) - {FAVOURS_CHANGES}):
            libc.fsconfig_flag(context, option)
        libc.fsconfig_reconfigure(context)
    finally:
        os.close(context)
    assert FAVOURS_CHANGES not in options_of(TREE)


class Mover:
    """A process that is moved to and fro between two cgroups."""

    def __init__(self) -> None:
        self._places = [Path(TREE, f"crib-moves-{name}") for name in "ab"]
        for place in self._places:
            place.mkdir()
        self._process = subprocess.Popen(["sleep", "infinity"])

    def __call__(self) -> None:
        self._places.reverse()
        (self._places[0] / "cgroup.procs").write_text(str(self._process.pid))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for place in self._places:
            place.rmdir()


def start_and_end() -> None:
    subprocess.run(["/bin/true"], check=True)


async def measure(work: Callable[[], object], pause: float) -> list[float]:
    found = []
    for _ in range(TIMES):
        await asyncio.sleep(pause)  # the pause that is measured
        began = time.perf_counter()
        done = work()
        if isinstance(done, Awaitable):
            await done
        found.append(1000 * (time.perf_counter() - began))
    return found


async def compare(cri: Cri, rounds: int) -> None:
    pod = await pods.run_sandbox(cri.connection, cri.pod_config("moves", log_directory=str(cri.cribd.logs)))
    box = await cri.run_container(pod, "sleep", "10000", image=IMAGE)
    mover, had = Mover(), FAVOURS_CHANGES in options_of(TREE)
    works: dict[str, tuple[Callable[[], object], float]] = {
        "a move, after a pause": (mover, PAUSE_SECONDS),
        "exec, after a pause": (lambda: cri.execute(box, "true"), PAUSE_SECONDS),
        "start and end of a process": (start_and_end, 0.0),
    }
    found: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for number in range(2 * rounds):
        set_option(on=bool(number % 2))
        for name, (work, pause) in works.items():
            found[name, bool(number % 2)] += await measure(work, pause)
    set_option(on=had)
    mover.end()
    await cri.remove_pod(pod)
    print(f"{'ms, median (p90)':30}{'without':>20}{FAVOURS_CHANGES:>20}")
    for name in works:
        cells = (
            f"{statistics.median(each):.1f} ({sorted(each)[len(each) * 9 // 10]:.1f})"
            for each in (found[name, False], found[name, True])
        )
        print(f"{name:30}" + "".join(f"{cell:>20}" for cell in cells))


async def main(rounds: int) -> None:
    node = Node(SETTINGS)
    node.start()
    archive = Path("/tmp/demo.tar")
    run(str(CHECKOUT / "script" / "demo-image"), "/bin/busybox", str(archive))
    crib("import", str(archive))
    try:
        async with node.connect() as cri:
            await compare(cri, rounds)
    finally:
        node.end()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4))
