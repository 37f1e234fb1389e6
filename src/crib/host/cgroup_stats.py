"""What a cgroup uses, from as few files as will do, for cgroup v1 and v2.

A working set is what the kubelet evicts by: memory in use without the inactive file pages.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from enum import Enum, auto

from crib.host.cgroup_files import (
    DeviceStats,
    PressureStats,
    content,
    devices_v1,
    devices_v2,
    huge_page_sizes,
    limit_v1,
    number,
    pressure,
    processes_below,
    whole_number,
)
from crib.host.cgroups import CgroupLayout

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds of a tick as the kernel tells times to programs (time(7), USER_HZ)."""
_V1_TREES = ("cpuacct", "cpu", "memory", "pids", "blkio", "hugetlb")
_SETTLING = 4
"""How often a cgroup and its children are read, until no kill comes in between."""


class For(Enum):
    """What a cgroup is read for: no file more than that needs, as each takes 3 to 7 µs."""

    STATS = auto()
    """The CRI's statistics."""
    POD_METRICS = auto()
    """What CPU time, memory and io consist of, and how often limits were met; no limits."""
    METRICS = auto()
    """Of a container: also threads and huge pages."""


@dataclass(frozen=True, slots=True)
class CpuStats:
    """Nanoseconds and counts since the cgroup was made; all but `usage` only where they are asked for."""

    usage: int
    pressure: PressureStats | None = None
    user: int | None = None
    system: int | None = None
    throttling: tuple[int, int, int] | None = None
    """Periods with a quota, those in which it was met, and the nanoseconds that were lost by that."""


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Memory in bytes; faults are counts. A `limit` or `swap_limit` of None is "no limit"."""

    usage: int
    inactive_file: int | None
    rss: int | None
    page_faults: int | None
    major_page_faults: int | None
    limit: int | None
    swap_usage: int | None
    swap_limit: int | None
    pressure: PressureStats | None = None

    @property
    def working_set(self) -> int | None:
        return None if self.inactive_file is None else max(self.usage - self.inactive_file, 0)


@dataclass(frozen=True, slots=True)
class MemoryDetails:
    """What else there is to know of the memory: bytes, and counts of limits that were met and of faults."""

    cache: int | None
    mapped_file: int | None
    kernel: int | None
    active_file: int | None
    peak: int | None
    limit_hits: int | None
    own_page_faults: int | None
    own_major_page_faults: int | None
    oom_kills: int | None


@dataclass(frozen=True, slots=True)
class HugePageStats:
    """Bytes in huge pages of one size."""

    size: str
    usage: int
    peak: int | None


@dataclass(frozen=True, slots=True)
class CgroupStats:
    """One reading. A part is None where the host has no such controller, or the cgroup is gone.

    `parts` and what stands below it is read for metrics only, `threads` and below for those of containers. A
    thread is what the pids controller counts.
    """

    cpu: CpuStats | None = None
    memory: MemoryStats | None = None
    io_pressure: PressureStats | None = None
    processes: tuple[int, ...] | None = None
    """Pids, those of cgroups below too; only where they were asked for."""
    parts: MemoryDetails | None = None
    devices: tuple[DeviceStats, ...] | None = None
    threads: int | None = None
    most_threads: int | None = None
    huge_pages: tuple[HugePageStats, ...] | None = None


class StatsReader:
    """Reads the cgroups of one layout: some 30 µs each with v1, a little more with v2 and pressure."""

    def __init__(self, layout: CgroupLayout) -> None:
        self._v2 = layout.unified if layout.mode == "v2" else None
        self._trees = {name: tree for name, tree in layout.controllers.items() if name in _V1_TREES}

    def read(self, path: str, use: For = For.STATS, *, processes: bool = False) -> CgroupStats:
        """The numbers of the cgroup at `path`; none when it is gone."""
        if self._v2 is None:
            return self._read_v1(path, use, processes=processes)
        return _read_v2(self._v2 + path, use, processes=processes)

    def _read_v1(self, path: str, use: For, *, processes: bool) -> CgroupStats:
        at = {name: f"{tree}{path}" for name, tree in self._trees.items()}
        memory, pids = at.get("memory"), at.get("pids")
        stat = content(f"{memory}/memory.stat") if memory else b""
        detailed, whole = use is not For.STATS, use is For.METRICS
        return CgroupStats(
            cpu=_cpu_v1(at.get("cpuacct"), at.get("cpu"), use),
            memory=_memory_v1(memory, stat, use) if memory else None,
            processes=_pids(pids) if pids and processes else None,
            parts=_parts_v1(memory, stat) if detailed and memory and stat else None,
            devices=devices_v1(at["blkio"]) if detailed and "blkio" in at else None,
            threads=whole_number(f"{pids}/pids.current") if whole and pids else None,
            most_threads=whole_number(f"{pids}/pids.max") if whole and pids else None,
            huge_pages=_huge_pages(at.get("hugetlb"), "usage_in_bytes", "max_usage_in_bytes")
            if whole
            else None,
        )

    def oom_kills(self, path: str) -> int | None:
        """How many processes in the cgroup the kernel has killed for want of memory; None when it is gone."""
        if self._v2 is not None:
            return number(content(f"{self._v2}{path}/memory.events"), b"oom_kill")
        memory = self._trees.get("memory")
        return number(content(f"{memory}{path}/memory.oom_control"), b"oom_kill") if memory else None

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


def _cpu_v1(cpuacct: str | None, cpu: str | None, use: For) -> CpuStats | None:
    usage = whole_number(f"{cpuacct}/cpuacct.usage") if cpuacct else None
    if usage is None:
        return None
    if use is For.STATS:
        return CpuStats(usage)
    stat = content(f"{cpu}/cpu.stat") if cpu else b""
    ticks = content(f"{cpuacct}/cpuacct.stat")
    return CpuStats(
        usage,
        user=_nanoseconds_of_ticks(ticks, b"user"),
        system=_nanoseconds_of_ticks(ticks, b"system"),
        throttling=_throttling(stat, number(stat, b"throttled_time")),
    )


def _nanoseconds_of_ticks(text: bytes, key: bytes) -> int | None:
    ticks = number(text, key)
    return None if ticks is None else ticks * _TICK


def _throttling(stat: bytes, lost: int | None) -> tuple[int, int, int] | None:
    periods, throttled = number(stat, b"nr_periods"), number(stat, b"nr_throttled")
    return None if periods is None or throttled is None or lost is None else (periods, throttled, lost)


def _memory_v1(directory: str, stat: bytes, use: For) -> MemoryStats | None:
    usage = whole_number(f"{directory}/memory.usage_in_bytes")
    if usage is None:
        return None
    # The group's own: what a group far above is limited to says nothing of this one.
    limit = limit_v1(f"{directory}/memory.limit_in_bytes") if use is For.STATS else None
    both = None if limit is None else limit_v1(f"{directory}/memory.memsw.limit_in_bytes")
    return MemoryStats(
        usage=usage,
        inactive_file=number(stat, b"total_inactive_file"),
        rss=number(stat, b"total_rss"),
        page_faults=number(stat, b"total_pgfault"),
        major_page_faults=number(stat, b"total_pgmajfault"),
        limit=limit,
        swap_usage=number(stat, b"total_swap"),
        swap_limit=None if both is None or limit is None else max(both - limit, 0),
    )


def _parts_v1(directory: str, stat: bytes) -> MemoryDetails:
    return MemoryDetails(
        cache=number(stat, b"total_cache"),
        mapped_file=number(stat, b"total_mapped_file"),
        kernel=whole_number(f"{directory}/memory.kmem.usage_in_bytes"),
        active_file=number(stat, b"total_active_file"),
        peak=whole_number(f"{directory}/memory.max_usage_in_bytes"),
        limit_hits=whole_number(f"{directory}/memory.failcnt"),
        own_page_faults=number(stat, b"pgfault"),
        own_major_page_faults=number(stat, b"pgmajfault"),
        oom_kills=number(content(f"{directory}/memory.oom_control"), b"oom_kill"),
    )


def _read_v2(directory: str, use: For, *, processes: bool) -> CgroupStats:
    stat = content(f"{directory}/memory.stat")
    detailed, whole = use is not For.STATS, use is For.METRICS
    return CgroupStats(
        cpu=_cpu_v2(directory, use),
        memory=_memory_v2(directory, stat, use),
        io_pressure=pressure(f"{directory}/io.pressure"),
        processes=_pids(directory) if processes else None,
        parts=_parts_v2(directory, stat) if detailed and stat else None,
        devices=devices_v2(f"{directory}/io.stat") if detailed else None,
        threads=whole_number(f"{directory}/pids.current") if whole else None,
        most_threads=whole_number(f"{directory}/pids.max") if whole else None,
        huge_pages=_huge_pages(directory, "current", "") if whole else None,
    )


def _cpu_v2(directory: str, use: For) -> CpuStats | None:
    stat = content(f"{directory}/cpu.stat")
    usage = number(stat, b"usage_usec")
    if usage is None:
        return None
    waits = pressure(f"{directory}/cpu.pressure")
    if use is For.STATS:
        return CpuStats(usage * 1000, waits)
    return CpuStats(
        usage * 1000,
        waits,
        user=_nanoseconds(stat, b"user_usec"),
        system=_nanoseconds(stat, b"system_usec"),
        throttling=_throttling(stat, _nanoseconds(stat, b"throttled_usec")),
    )


def _nanoseconds(stat: bytes, key: bytes) -> int | None:
    microseconds = number(stat, key)
    return None if microseconds is None else microseconds * 1000


def _memory_v2(directory: str, stat: bytes, use: For) -> MemoryStats | None:
    usage = whole_number(f"{directory}/memory.current")
    if usage is None:
        return None
    return MemoryStats(
        usage=usage,
        inactive_file=number(stat, b"inactive_file"),
        rss=number(stat, b"anon"),
        page_faults=number(stat, b"pgfault"),
        major_page_faults=number(stat, b"pgmajfault"),
        limit=whole_number(f"{directory}/memory.max") if use is For.STATS else None,
        swap_usage=whole_number(f"{directory}/memory.swap.current"),
        swap_limit=whole_number(f"{directory}/memory.swap.max") if use is For.STATS else None,
        pressure=pressure(f"{directory}/memory.pressure"),
    )


def _parts_v2(directory: str, stat: bytes) -> MemoryDetails:
    events = content(f"{directory}/memory.events")
    return MemoryDetails(
        cache=number(stat, b"file"),
        mapped_file=number(stat, b"file_mapped"),
        kernel=number(stat, b"kernel"),
        active_file=number(stat, b"active_file"),
        peak=whole_number(f"{directory}/memory.peak"),
        limit_hits=number(events, b"max"),
        own_page_faults=None,
        own_major_page_faults=None,
        oom_kills=number(events, b"oom_kill"),
    )


def _pids(directory: str) -> tuple[int, ...] | None:
    found = processes_below(directory)
    return None if found is None else tuple(found)


def _huge_pages(directory: str | None, usage: str, peak: str) -> tuple[HugePageStats, ...] | None:
    """`usage` and `peak` are how the names of the files end; with v2 there is no file of a peak."""
    if directory is None:
        return None
    found = []
    for size in _sizes():
        most = whole_number(f"{directory}/hugetlb.{size}.{peak}") if peak else None
        # What was never used is not in use: most containers, and one file less.
        used = 0 if most == 0 else whole_number(f"{directory}/hugetlb.{size}.{usage}")
        if used is not None:
            found.append(HugePageStats(size, used, most))
    return tuple(found) or None


@functools.cache
def _sizes() -> tuple[str, ...]:
    """Of this kernel: they do not change while it runs."""
    return huge_page_sizes()
