"""Cgroups of the guest (version 2): what is in them, what they use, and their switches.

Source: kernel Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os

from crib.vm.guest.codec import DOUBLE, STRING, UINT
from crib.vm.guest.loop import CHANGE, Later, Loop, either

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

ROOT = "/sys/fs/cgroup"
METRICS = "io.containerd.cgroups.v2.Metrics"

_CPU = (
    (1, "usage_usec"), (2, "user_usec"), (3, "system_usec"), (4, "nr_periods"), (5, "nr_throttled"),
    (6, "throttled_usec"), (8, "nr_bursts"), (9, "burst_usec"),
)  # fmt: skip
_MEMORY = (
    "anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback",
    "anon_thp", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable",
    "slab_reclaimable", "slab_unreclaimable", "pgfault", "pgmajfault", "workingset_refault",
    "workingset_activate", "workingset_nodereclaim", "pgrefill", "pgscan", "pgsteal", "pgactivate",
    "pgdeactivate", "pglazyfree", "pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc",
)  # fmt: skip
"""In the order of their fields' numbers, from 1."""
_OTHER_MEMORY = (
    (32, "usage"),
    (33, "usage_limit"),
    (34, "swap_usage"),
    (35, "swap_limit"),
    (36, "max_usage"),
)
_EVENTS = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")
_PSI_DATA = {1: ("avg10", DOUBLE), 2: ("avg60", DOUBLE), 3: ("avg300", DOUBLE), 4: ("total", UINT)}
_PSI = {1: ("some", _PSI_DATA), 2: ("full", _PSI_DATA)}
_IO_ENTRY = {
    number: (name, UINT)
    for number, name in enumerate(("major", "minor", "rbytes", "wbytes", "rios", "wios"), 1)
}
NETWORK_STAT = {
    1: ("name", STRING),
    **{
        number: (name, UINT)
        for number, name in enumerate(
            ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors",
             "tx_dropped"), 2)
    },
}  # fmt: skip
METRICS_TABLE: dict[int, Any] = {
    1: ("pids", {1: ("current", UINT), 2: ("limit", UINT)}),
    2: ("cpu", {**{number: (name, UINT) for number, name in _CPU}, 7: ("psi", _PSI)}),
    4: ("memory", {
        **{number: (name, UINT) for number, name in enumerate(_MEMORY, 1)},
        **{number: (name, UINT) for number, name in _OTHER_MEMORY},
        38: ("psi", _PSI),
    }),
    6: ("io", {1: ("usage", (_IO_ENTRY,)), 2: ("psi", _PSI)}),
    8: ("memory_events", {number: (name, UINT) for number, name in enumerate(_EVENTS, 1)}),
    9: ("network", (NETWORK_STAT,)),
}  # fmt: skip


def of_process(pid: int) -> str:
    """The cgroup of a process, such as /crib/ID. OSError if it is gone."""
    with open(f"/proc/{pid}/cgroup") as file:
        for line in file:
            if line.startswith("0::"):
                return line[3:].rstrip("\n")
    raise FileNotFoundError(f"process {pid} is in no cgroup of version 2")


def read(cgroup: str, name: str) -> str:
    """One file of a cgroup; empty if there is none."""
    try:
        with open(f"{ROOT}{cgroup}/{name}") as file:
            return file.read()
    except OSError:
        return ""


def write(cgroup: str, name: str, value: str) -> None:
    """OSError if the kernel refuses it."""
    descriptor = os.open(f"{ROOT}{cgroup}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def flat(text: str) -> dict[str, int]:
    """A file of lines with a name and a number."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def below(cgroup: str) -> Iterator[str]:
    """A cgroup and all below it."""
    yield cgroup
    try:
        names = [entry.name for entry in os.scandir(ROOT + cgroup) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for name in names:
        yield from below(f"{cgroup}/{name}")


def pids(cgroup: str) -> list[int]:
    """All processes in a cgroup and below."""
    return [int(pid) for one in below(cgroup) for pid in read(one, "cgroup.procs").split()]


def is_populated(cgroup: str) -> bool:
    """Whether a process lives in it or below."""
    return flat(read(cgroup, "cgroup.events")).get("populated", 0) != 0


def kill(cgroup: str) -> None:
    """SIGKILL to all in it and below; nothing if it is gone."""
    try:
        write(cgroup, "cgroup.kill", "1")
    except FileNotFoundError:
        pass


def remove(cgroup: str) -> None:
    """It and those below, if they are empty."""
    for one in reversed(list(below(cgroup))):
        try:
            os.rmdir(ROOT + one)
        except OSError:
            return


def metrics(cgroup: str) -> dict[str, Any]:
    """What a container uses, as `METRICS_TABLE` has it."""
    cpu: dict[str, Any] = flat(read(cgroup, "cpu.stat"))
    memory: dict[str, Any] = flat(read(cgroup, "memory.stat"))
    known = set(_MEMORY)
    usage = {name: value for name, value in memory.items() if name in known}
    for name, file in (
        ("usage", "memory.current"), ("usage_limit", "memory.max"), ("swap_usage", "memory.swap.current"),
        ("swap_limit", "memory.swap.max"), ("max_usage", "memory.peak"),
    ):  # fmt: skip
        usage[name] = _limit(read(cgroup, file))
    events = flat(read(cgroup, "memory.events"))
    return {
        "pids": {"current": _limit(read(cgroup, "pids.current")), "limit": _count(read(cgroup, "pids.max"))},
        "cpu": {**{name: cpu[name] for _, name in _CPU if name in cpu}, "psi": _pressure(cgroup, "cpu")},
        "memory": {**usage, "psi": _pressure(cgroup, "memory")},
        "io": {"usage": list(_io(read(cgroup, "io.stat"))), "psi": _pressure(cgroup, "io")},
        "memory_events": {name: events[name] for name in _EVENTS if name in events},
    }


def _limit(text: str) -> int:
    """Of bytes: no limit is the largest number."""
    text = text.strip()
    return (1 << 64) - 1 if text == "max" else int(text or 0)


def _count(text: str) -> int:
    """Of processes: no limit is 0."""
    text = text.strip()
    return 0 if text == "max" else int(text or 0)


def _io(text: str) -> Iterator[dict[str, int]]:
    for line in text.splitlines():
        device, *fields = line.split()
        major, _, minor = device.partition(":")
        entry = {"major": int(major), "minor": int(minor)}
        for field in fields:
            name, _, value = field.partition("=")
            if name in ("rbytes", "wbytes", "rios", "wios"):
                entry[name] = int(value)
        yield entry


def _pressure(cgroup: str, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for line in read(cgroup, f"{name}.pressure").splitlines():
        kind, *fields = line.split()
        pairs = [field.partition("=") for field in fields]
        found[kind] = {key: int(value) if key == "total" else float(value) for key, _, value in pairs}
    return found or None


class Changes:
    """A file of a cgroup whose changes the kernel tells of."""

    def __init__(self, loop: Loop, cgroup: str, name: str) -> None:
        self._loop = loop
        self._descriptor = os.open(f"{ROOT}{cgroup}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self._changed = Later()
        loop.watch(self._descriptor, CHANGE, lambda _: self._tell())

    def values(self) -> dict[str, int]:
        """What is in it now; empty if the cgroup is gone. `next` is of changes after this."""
        self._changed = Later()
        try:
            return flat(os.pread(self._descriptor, 4096, 0).decode())
        except OSError:
            return {}

    def next(self, limit: Later | None = None) -> Later:
        """Set after the next change, or when `limit` is."""
        return either(self._changed, limit)

    def close(self) -> None:
        """No more. Safe to repeat."""
        if self._descriptor >= 0:
            self._loop.unwatch(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _tell(self) -> None:
        self._changed.set()
