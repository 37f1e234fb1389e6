"""What a cgroup uses, from as few files as will do, for cgroup v1 and v2.

Sources: kernel, admin-guide/cgroup-v1/memory and cpuacct; admin-guide/cgroup-v2; accounting/psi. A working
set is what kubelet evicts by: memory in use without the inactive file pages.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from crib.host.cgroups import CgroupLayout

_UNLIMITED = 1 << 62  # v1 writes "no limit" as the largest number of whole pages
_READ = 16384
_SETTLING = 4
"""How often a cgroup and its children are read, until no kill comes in between."""
_PSI = re.compile(
    rb"^(some|full) avg10=([0-9.]+) avg60=([0-9.]+) avg300=([0-9.]+) total=([0-9]+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class PressureLine:
    """One line of a pressure file: averages in percent over 10, 60 and 300 s, the total in microseconds."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


@dataclass(frozen=True, slots=True)
class PressureStats:
    """Pressure stall information of one resource; `full` is missing for the CPU in older kernels."""

    some: PressureLine
    full: PressureLine | None


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Memory in bytes; faults are counts. A `limit` or `swap_limit` of None is "no limit".

    A `swap_usage` of None is "not accounted": the kernel does not tell.
    """

    usage: int
    working_set: int
    rss: int
    page_faults: int
    major_page_faults: int
    limit: int | None
    swap_usage: int | None
    swap_limit: int | None
    oom_kills: int
    pressure: PressureStats | None = None


@dataclass(frozen=True, slots=True)
class CgroupStats:
    """One reading. A part is None where the host has no such controller. `pids` counts threads too."""

    cpu_ns: int | None
    memory: MemoryStats | None
    pids: int | None
    cpu_pressure: PressureStats | None = None
    io_pressure: PressureStats | None = None


class StatsReader:
    """Reads the cgroups of one layout: about 60 µs each with v1, a little more with v2 and pressure."""

    def __init__(self, layout: CgroupLayout) -> None:
        self._v2 = layout.unified if layout.mode == "v2" else None
        self._cpuacct = layout.controllers.get("cpuacct")
        self._memory = layout.controllers.get("memory")
        self._pids = layout.controllers.get("pids")

    def read(self, path: str) -> CgroupStats:
        """The numbers of the cgroup at `path`; FileNotFoundError when it is gone."""
        if self._v2 is not None:
            directory = self._v2 + path
            if not os.path.isdir(directory):
                raise FileNotFoundError(2, "no such cgroup", directory)
            return _read_v2(directory)
        return CgroupStats(
            cpu_ns=None if self._cpuacct is None else int(_file(f"{self._cpuacct}{path}/cpuacct.usage")),
            memory=None if self._memory is None else _memory_v1(f"{self._memory}{path}"),
            pids=None if self._pids is None else int(_file(f"{self._pids}{path}/pids.current")),
        )

    def oom_kills(self, path: str) -> int | None:
        """How many processes in the cgroup the kernel has killed for want of memory; None when it is gone."""
        if self._v2 is not None:
            counters = _optional(f"{self._v2}{path}/memory.events")
        else:
            counters = _optional(f"{self._memory}{path}/memory.oom_control") if self._memory else b""
        return _number(counters, b"oom_kill") if counters else None

    def oom_kills_below(self, path: str) -> tuple[int, dict[str, int]]:
        """Kills in the cgroup and in all below it, past ones too; and by name those in each child there is.

        Nothing with v1, which does not count those of cgroups below.
        """
        if self._v2 is None:
            return 0, {}
        every = self.oom_kills(path) or 0
        for _attempt in range(_SETTLING):
            children = {name: self.oom_kills(f"{path}/{name}") for name in self._children(path)}
            before, every = every, self.oom_kills(path) or 0
            if every == before:
                break  # what the children said belongs to this number
        return every, {name: kills for name, kills in children.items() if kills is not None}

    def _children(self, path: str) -> list[str]:
        try:
            with os.scandir(f"{self._v2}{path}") as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []


def _memory_v1(directory: str) -> MemoryStats:
    stat = _file(f"{directory}/memory.stat")
    usage = int(_file(f"{directory}/memory.usage_in_bytes"))
    # The group's own: what a group far above is limited to says nothing of this one.
    limit = _limit_v1(int(_file(f"{directory}/memory.limit_in_bytes")))
    both = _limit_v1(int(_optional(f"{directory}/memory.memsw.limit_in_bytes") or 0))
    return MemoryStats(
        usage=usage,
        working_set=max(usage - _number(stat, b"total_inactive_file"), 0),
        rss=_number(stat, b"total_rss"),
        page_faults=_number(stat, b"total_pgfault"),
        major_page_faults=_number(stat, b"total_pgmajfault"),
        limit=limit,
        swap_usage=_number(stat, b"total_swap") if b"\ntotal_swap " in stat else None,
        swap_limit=None if both is None or limit is None else max(both - limit, 0),
        oom_kills=_number(_optional(f"{directory}/memory.oom_control"), b"oom_kill"),
    )


def _limit_v1(value: int) -> int | None:
    return None if value == 0 or value >= _UNLIMITED else value


def _read_v2(directory: str) -> CgroupStats:
    cpu = _optional(f"{directory}/cpu.stat")
    pids = _optional(f"{directory}/pids.current")
    return CgroupStats(
        cpu_ns=_number(cpu, b"usage_usec") * 1000 if cpu else None,
        memory=_memory_v2(directory),
        pids=int(pids) if pids else None,
        cpu_pressure=_pressure(f"{directory}/cpu.pressure"),
        io_pressure=_pressure(f"{directory}/io.pressure"),
    )


def _memory_v2(directory: str) -> MemoryStats | None:
    current = _optional(f"{directory}/memory.current")
    if not current:
        return None
    stat = _file(f"{directory}/memory.stat")
    swapped = _optional(f"{directory}/memory.swap.current")
    usage = int(current)
    return MemoryStats(
        usage=usage,
        working_set=max(usage - _number(stat, b"inactive_file"), 0),
        rss=_number(stat, b"anon"),
        page_faults=_number(stat, b"pgfault"),
        major_page_faults=_number(stat, b"pgmajfault"),
        limit=_limit_v2(_optional(f"{directory}/memory.max")),
        swap_usage=int(swapped) if swapped else None,
        swap_limit=_limit_v2(_optional(f"{directory}/memory.swap.max")),
        oom_kills=_number(_optional(f"{directory}/memory.events"), b"oom_kill"),
        pressure=_pressure(f"{directory}/memory.pressure"),
    )


def _limit_v2(text: bytes) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _pressure(path: str) -> PressureStats | None:
    lines = {
        kind: PressureLine(float(avg10), float(avg60), float(avg300), int(total))
        for kind, avg10, avg60, avg300, total in _PSI.findall(_optional(path))
    }
    return PressureStats(lines[b"some"], lines.get(b"full")) if b"some" in lines else None


def _number(text: bytes, key: bytes) -> int:
    """The number in the line `key number`; 0 when there is no such line."""
    start = 0 if text.startswith(key + b" ") else text.find(b"\n" + key + b" ") + 1
    if start == 0 and not text.startswith(key + b" "):
        return 0
    start += len(key) + 1
    end = text.find(b"\n", start)
    return int(text[start : end if end >= 0 else None])


def _file(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _READ)
    finally:
        os.close(fd)


def _optional(path: str) -> bytes:
    """The content of a file, or nothing: pressure is off on some kernels, and the root has no limits."""
    try:
        return _file(path)
    except OSError:
        return b""
