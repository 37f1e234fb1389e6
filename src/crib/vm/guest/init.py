"""Pid 1: mounts what the guest needs, starts the agent, and starts another when that has died."""

from __future__ import annotations

import os
import sys

from crib.vm.guest import cgroups, figures, kernel
from crib.vm.guest.agent import Agent
from crib.vm.guest.port import open_port

PORT = "crib.agent"
STATE = "/run/crib/agent"
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")
SHORT_LIFE_NANOSECONDS = 1_000_000_000
MOST_SHORT_LIVES = 5
"""Agents in a row that died at once: then the guest is given up."""
SIGKILL = 9
_PLAIN = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def main() -> None:
    """Pid 1's work. Does not return: the guest ends with it."""
    stages = {"init_at": figures.uptime(), "initrd_at": _nanoseconds(sys.argv[1])}
    try:
        _prepare()
        _keep(stages)
    except Exception as error:
        print(f"crib: pid 1 cannot go on: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    kernel.power_off()


def _prepare() -> None:
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_SHARED)
    kernel.mount("run", "/run", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmp", "/tmp", "tmpfs", flags, "mode=1777")  # noqa: S108  nobody else is there yet
    kernel.mount("cgroup", cgroups.ROOT, "cgroup2", _PLAIN)
    os.mkdir("/dev/pts")
    kernel.mount("pts", "/dev/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, "mode=620,ptmxmode=666")
    os.mkdir(f"{cgroups.ROOT}/crib")
    there = cgroups.read("", "cgroup.controllers").split()
    wanted = " ".join(f"+{name}" for name in CONTROLLERS if name in there)
    for cgroup in ("", "/crib"):
        cgroups.write(cgroup, "cgroup.subtree_control", wanted)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")


def _keep(stages: dict[str, int]) -> None:
    kernel.load("virtio_console")
    generation = short_lives = 0
    while short_lives < MOST_SHORT_LIVES:
        generation += 1
        began = stages["agent_at"] = figures.uptime()
        agent = os.fork()
        if agent == 0:
            _be_agent(generation, stages)
        while os.wait()[0] != agent:
            pass  # whatever had lost its parent
        print("crib: the agent has died", file=sys.stderr, flush=True)
        _clear()
        is_short = figures.uptime() - began < SHORT_LIFE_NANOSECONDS
        short_lives = short_lives + 1 if is_short else 0


def _be_agent(generation: int, stages: dict[str, int]) -> None:
    try:
        kernel.adopt_orphans()
        kernel.set_name("crib-agent")
        Agent(open_port(PORT), generation, stages, STATE).run()
    except BaseException as error:
        print(f"crib: the agent: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


def _clear() -> None:
    """Nothing of the containers is left: the next agent knows none of them."""
    try:
        os.kill(-1, SIGKILL)
    except ProcessLookupError:
        pass  # there is no process but this one
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
    with open("/proc/self/mounts") as file:
        places = [line.split(" ")[1] for line in file]
    for place in reversed(places):
        if place.startswith((f"{STATE}/", "/run/crib/ns/", "/run/crib/share/")):
            kernel.unmount(place)
    _remove(STATE)
    _remove("/run/crib/ns")
    for cgroup in list(cgroups.below("/crib"))[:0:-1]:
        cgroups.remove(cgroup)


def _remove(directory: str) -> None:
    for above, directories, files in os.walk(directory, topdown=False):
        for name in files:
            os.unlink(f"{above}/{name}")
        for name in directories:
            os.rmdir(f"{above}/{name}")


def _nanoseconds(seconds: str) -> int:
    """As /proc/uptime has them."""
    return int(float(seconds) * 1_000_000_000)
