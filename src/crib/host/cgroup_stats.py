"""What a cgroup uses, from as few files as will do, for cgroup v1 and v2.

A working set is what the kubelet evicts by: memory in use without the inactive file pages.
"""

from __future__ import annotations

import functools
import os
from enum import Enum, auto
from typing import NamedTuple

from crib.host.cgroup_files import (
    DeviceStats,
    PressureStats,
    Read,
    content,
    devices_v1,
    devices_v2,
    huge_page_sizes,
    limit_v1,
    line_beginnings,
    number,
    numbers,
    pressure,
    whole_number,
)
from crib.host.cgroups import CgroupLayout
from crib.host.kept_files import KEPT_SECONDS, KeptFiles, OpenFiles

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds of a tick as the kernel tells times to programs (time(7), USER_HZ)."""
_V1_TREES = ("cpuacct", "cpu", "memory", "pids", "blkio", "hugetlb")
# Lines of the kernel's files, in its order.
_V1_TIMES = line_beginnings(b"user", b"system")
_V1_THROTTLING = line_beginnings(b"nr_periods", b"nr_throttled", b"throttled_time")
_V1_MEMORY = line_beginnings(
    b"total_rss", b"total_swap", b"total_pgfault", b"total_pgmajfault", b"total_inactive_file"
)
_V1_PARTS = line_beginnings(
    b"pgfault", b"pgmajfault", b"total_cache", b"total_mapped_file", b"total_active_file"
)
_V2_CPU = line_beginnings(b"user_usec", b"system_usec", b"nr_periods", b"nr_throttled", b"throttled_usec")
_V2_MEMORY = line_beginnings(b"anon", b"inactive_file", b"pgfault", b"pgmajfault")
_V2_PARTS = line_beginnings(b"file", b"kernel", b"file_mapped", b"active_file")
_V2_EVENTS = line_beginnings(b"max", b"oom_kill")
_SETTLING = 4
"""How often a cgroup and its children are read, until no kill comes in between."""


class For(Enum):
    """What a cgroup is read for: no file more than that needs, as each takes 3 to 7 µs if it is not open."""

    STATS = auto()
    """The CRI's statistics."""
    POD_METRICS = auto()
    """What CPU time, memory and io consist of, and how often limits were met; no limits."""
    METRICS = auto()
    """Of a container: also threads and huge pages."""


class CpuStats(NamedTuple):
    """Nanoseconds and counts since the cgroup was made; all but `usage` only where they are asked for."""

    usage: int
    pressure: PressureStats | None = None
    user: int | None = None
    system: int | None = None
    throttling: tuple[int, int, int] | None = None
    """Periods with a quota, those in which it was met, and the nanoseconds that were lost by that."""


class MemoryStats(NamedTuple):
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


class MemoryDetails(NamedTuple):
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


class HugePageStats(NamedTuple):
    """Bytes in huge pages of one size."""

    size: str
    usage: int
    peak: int | None


class CgroupStats(NamedTuple):
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
    """Reads the cgroups of one layout. What statistics need of them stays open for the next question."""

    def __init__(self, layout: CgroupLayout) -> None:
        self._v2 = layout.unified if layout.mode == "v2" else None
        self._trees = {name: tree for name, tree in layout.controllers.items() if name in _V1_TREES}
        self._kept = KeptFiles()

    def read(self, path: str, use: For = For.STATS, *, processes: bool = False) -> CgroupStats:
        """The numbers of the cgroup at `path`; none when it is gone."""
        files = self._kept.take(path)
        try:
            if self._v2 is None:
                return self._read_v1(path, use, files, processes=processes)
            return _read_v2(self._v2 + path, use, files, processes=processes)
        finally:
            self._kept.put_back(path, files)

    def close_old(self, seconds: float = KEPT_SECONDS) -> bool:
        """Close the files of cgroups that nobody has read for so long. Whether others stay open."""
        return self._kept.close_old(seconds)

    def _read_v1(self, path: str, use: For, files: OpenFiles, *, processes: bool) -> CgroupStats:
        at = {name: f"{tree}{path}" for name, tree in self._trees.items()}
        memory, pids = at.get("memory"), at.get("pids")
        read = files.content
        stat = read(f"{memory}/memory.stat") if memory else b""
        detailed, whole = use is not For.STATS, use is For.METRICS
        return CgroupStats(
            cpu=_cpu_v1(at.get("cpuacct"), at.get("cpu"), use, read),
            memory=_memory_v1(memory, stat, use, read) if memory else None,
            processes=_pids(files, pids) if pids and processes else None,
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


def _cpu_v1(cpuacct: str | None, cpu: str | None, use: For, read: Read) -> CpuStats | None:
    usage = whole_number(f"{cpuacct}/cpuacct.usage", read) if cpuacct else None
    if usage is None:
        return None
    if use is For.STATS:
        return CpuStats(usage)
    stat = content(f"{cpu}/cpu.stat") if cpu else b""
    user, system = numbers(content(f"{cpuacct}/cpuacct.stat"), _V1_TIMES)
    return CpuStats(
        usage, None, _times(user, _TICK), _times(system, _TICK), _throttling(*numbers(stat, _V1_THROTTLING))
    )


def _times(count: int | None, nanoseconds: int) -> int | None:
    return None if count is None else count * nanoseconds


def _throttling(periods: int | None, throttled: int | None, lost: int | None) -> tuple[int, int, int] | None:
    return None if periods is None or throttled is None or lost is None else (periods, throttled, lost)


def _memory_v1(directory: str, stat: bytes, use: For, read: Read) -> MemoryStats | None:
    usage = whole_number(f"{directory}/memory.usage_in_bytes", read)
    if usage is None:
        return None
    # The group's own: what a group far above is limited to says nothing of this one.
    limit = limit_v1(f"{directory}/memory.limit_in_bytes", read) if use is For.STATS else None
    both = None if limit is None else limit_v1(f"{directory}/memory.memsw.limit_in_bytes", read)
    rss, swap, faults, major_faults, inactive_file = numbers(stat, _V1_MEMORY)
    swap_limit = None if both is None or limit is None else max(both - limit, 0)
    return MemoryStats(usage, inactive_file, rss, faults, major_faults, limit, swap, swap_limit)


def _parts_v1(directory: str, stat: bytes) -> MemoryDetails:
    own_faults, own_major_faults, cache, mapped_file, active_file = numbers(stat, _V1_PARTS)
    return MemoryDetails(
        cache=cache,
        mapped_file=mapped_file,
        kernel=whole_number(f"{directory}/memory.kmem.usage_in_bytes"),
        active_file=active_file,
        peak=whole_number(f"{directory}/memory.max_usage_in_bytes"),
        limit_hits=whole_number(f"{directory}/memory.failcnt"),
        own_page_faults=own_faults,
        own_major_page_faults=own_major_faults,
        oom_kills=number(content(f"{directory}/memory.oom_control"), b"oom_kill"),
    )


def _read_v2(directory: str, use: For, files: OpenFiles, *, processes: bool) -> CgroupStats:
    read = files.content
    stat = read(f"{directory}/memory.stat")
    detailed, whole = use is not For.STATS, use is For.METRICS
    return CgroupStats(
        cpu=_cpu_v2(directory, use, read),
        memory=_memory_v2(directory, stat, use, read),
        io_pressure=pressure(f"{directory}/io.pressure", read),
        processes=_pids(files, directory) if processes else None,
        parts=_parts_v2(directory, stat) if detailed and stat else None,
        devices=devices_v2(f"{directory}/io.stat") if detailed else None,
        threads=whole_number(f"{directory}/pids.current") if whole else None,
        most_threads=whole_number(f"{directory}/pids.max") if whole else None,
        huge_pages=_huge_pages(directory, "current", "") if whole else None,
    )


def _cpu_v2(directory: str, use: For, read: Read) -> CpuStats | None:
    stat = read(f"{directory}/cpu.stat")
    usage = number(stat, b"usage_usec")
    if usage is None:
        return None
    waits = pressure(f"{directory}/cpu.pressure", read)
    if use is For.STATS:
        return CpuStats(usage * 1000, waits)
    user, system, periods, throttled, lost = numbers(stat, _V2_CPU)
    return CpuStats(
        usage * 1000,
        waits,
        _times(user, 1000),
        _times(system, 1000),
        _throttling(periods, throttled, _times(lost, 1000)),
    )


def _memory_v2(directory: str, stat: bytes, use: For, read: Read) -> MemoryStats | None:
    usage = whole_number(f"{directory}/memory.current", read)
    if usage is None:
        return None
    rss, inactive_file, faults, major_faults = numbers(stat, _V2_MEMORY)
    return MemoryStats(
        usage=usage,
        inactive_file=inactive_file,
        rss=rss,
        page_faults=faults,
        major_page_faults=major_faults,
        limit=whole_number(f"{directory}/memory.max", read) if use is For.STATS else None,
        swap_usage=whole_number(f"{directory}/memory.swap.current", read),
        swap_limit=whole_number(f"{directory}/memory.swap.max", read) if use is For.STATS else None,
        pressure=pressure(f"{directory}/memory.pressure", read),
    )


def _parts_v2(directory: str, stat: bytes) -> MemoryDetails:
    cache, kernel, mapped_file, active_file = numbers(stat, _V2_PARTS)
    limit_hits, oom_kills = numbers(content(f"{directory}/memory.events"), _V2_EVENTS)
    return MemoryDetails(
        cache=cache,
        mapped_file=mapped_file,
        kernel=kernel,
        active_file=active_file,
        peak=whole_number(f"{directory}/memory.peak"),
        limit_hits=limit_hits,
        own_page_faults=None,
        own_major_page_faults=None,
        oom_kills=oom_kills,
    )


def _pids(files: OpenFiles, directory: str) -> tuple[int, ...] | None:
    found = files.processes(directory)
    return None if found is None else tuple(sorted(found))


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
