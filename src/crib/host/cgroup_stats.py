"""What a cgroup uses, from as few files as will do, for cgroup v1 and v2.

A working set is what the kubelet evicts by: memory in use without the inactive file pages.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import TypeAlias

from crib.host.cgroup_figures import CgroupStats, CpuStats, HugePageStats, MemoryDetails, MemoryStats
from crib.host.cgroup_files import (
    Lines,
    content,
    devices_v1,
    devices_v2,
    huge_page_sizes,
    limit_v1,
    number,
    pressure,
    whole_number,
)
from crib.host.cgroups import CgroupLayout
from crib.host.kept_files import KEPT_SECONDS, KeptFiles, OpenFiles

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds of a tick as the kernel tells times to programs (time(7), USER_HZ)."""
_V1_TREES = ("cpuacct", "cpu", "memory", "pids", "blkio", "hugetlb")
_V1_TIMES = Lines(b"user", b"system")
_V1_THROTTLING = Lines(b"nr_periods", b"nr_throttled", b"throttled_time")
_V1_MEMORY = (b"total_rss", b"total_swap", b"total_pgfault", b"total_pgmajfault", b"total_inactive_file")
_V1_PARTS = (b"pgfault", b"pgmajfault", b"total_cache", b"total_mapped_file", b"total_active_file")
_V1_KILLS = Lines(b"oom_kill")
_V2_USAGE = (b"usage_usec",)
_V2_TIMES = (b"user_usec", b"system_usec", b"nr_periods", b"nr_throttled", b"throttled_usec")
_V2_MEMORY = (b"anon", b"inactive_file", b"pgfault", b"pgmajfault")
_V2_PARTS = (b"file", b"kernel", b"file_mapped", b"active_file")
_V2_EVENTS = Lines(b"max", b"oom_kill")
# By whether parts are wanted: they come after what is always wanted.
_V1_STAT = {False: Lines(*_V1_MEMORY), True: Lines(*_V1_MEMORY, *_V1_PARTS)}
_V2_STAT = {False: Lines(*_V2_MEMORY), True: Lines(*_V2_MEMORY, *_V2_PARTS)}
_V2_CPU = {False: Lines(*_V2_USAGE), True: Lines(*_V2_USAGE, *_V2_TIMES)}
_SETTLING = 4
"""How often a cgroup and its children are read, until no kill comes in between."""


Texts: TypeAlias = Mapping[str, bytes]
"""What files hold, by name; those that are not there are missing."""
Numbers: TypeAlias = Sequence[int | None]


class For(Enum):
    """What a cgroup is read for: no file more than that needs, as each takes 6 µs if it is not open."""

    STATS = auto()
    """The CRI's statistics."""
    POD_METRICS = auto()
    """What CPU time, memory and io consist of, and how often limits were met; no limits."""
    METRICS = auto()
    """Of a container: also threads and huge pages."""


_V1_FILES = {
    For.STATS: (
        "cpuacct.usage",
        "memory.stat",
        "memory.usage_in_bytes",
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
    ),
    For.POD_METRICS: (
        "cpuacct.usage",
        "cpuacct.stat",
        "cpu.stat",
        "memory.stat",
        "memory.usage_in_bytes",
        "memory.kmem.usage_in_bytes",
        "memory.max_usage_in_bytes",
        "memory.failcnt",
        "memory.oom_control",
        "blkio.throttle.io_service_bytes_recursive",
        "blkio.throttle.io_serviced_recursive",
    ),
}
_V2_FILES = {
    For.STATS: (
        "cpu.stat",
        "cpu.pressure",
        "memory.stat",
        "memory.current",
        "memory.max",
        "memory.swap.current",
        "memory.swap.max",
        "memory.pressure",
        "io.pressure",
    ),
    For.POD_METRICS: (
        "cpu.stat",
        "cpu.pressure",
        "memory.stat",
        "memory.current",
        "memory.peak",
        "memory.events",
        "memory.swap.current",
        "memory.pressure",
        "io.pressure",
        "io.stat",
    ),
}
_OF_THREADS = ("pids.current", "pids.max")
# Of huge pages, by size; with v2 there is no file of the peak.
_CURRENT, _USAGE, _PEAK = "current", "usage_in_bytes", "max_usage_in_bytes"


class StatsReader:
    """Reads the cgroups of one layout. Their files stay open for the next question."""

    def __init__(self, layout: CgroupLayout) -> None:
        self._v2 = layout.unified if layout.mode == "v2" else None
        self._trees = {name: tree for name, tree in layout.controllers.items() if name in _V1_TREES}
        self._names: dict[For, tuple[str, ...]] = {}
        self._kept = KeptFiles()

    def read(self, path: str, use: For = For.STATS, *, processes: bool = False) -> CgroupStats:
        """The numbers of the cgroup at `path`; none when it is gone."""
        files = self._kept.take(path) or OpenFiles(functools.partial(self._place, path))
        try:
            names = self._names.get(use) or self._files_for(use)
            pids = self._pids(path, files) if processes else None
            return (_stats_v1 if self._v2 is None else _stats_v2)(files, names, use, pids)
        finally:
            self._kept.put_back(path, files)

    def close_old(self, seconds: float = KEPT_SECONDS) -> bool:
        """Close the files of cgroups that nobody has read for so long. Whether others stay open."""
        return self._kept.close_old(seconds)

    def _place(self, path: str, name: str) -> str:
        """Where a file of the cgroup is; with v1 its prefix names the controller."""
        tree = self._v2 if self._v2 is not None else self._trees[name.partition(".")[0]]
        return f"{tree}{path}/{name}"

    def _files_for(self, use: For) -> tuple[str, ...]:
        """Those with figures that there may be."""
        is_v2 = self._v2 is not None
        names = (_V2_FILES if is_v2 else _V1_FILES)[For.POD_METRICS if use is For.METRICS else use]
        if use is For.METRICS:
            end = _CURRENT if is_v2 else _PEAK
            names += _OF_THREADS + tuple(f"hugetlb.{size}.{end}" for size in _sizes())
        made = names if is_v2 else tuple(name for name in names if name.partition(".")[0] in self._trees)
        self._names[use] = made
        return made

    def _pids(self, path: str, files: OpenFiles) -> tuple[int, ...] | None:
        tree = self._v2 if self._v2 is not None else self._trees.get("pids")
        found = None if tree is None else files.processes(f"{tree}{path}")
        return None if found is None else tuple(sorted(found))

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


def _stats_v1(
    files: OpenFiles, names: tuple[str, ...], use: For, pids: tuple[int, ...] | None
) -> CgroupStats:
    text = files.contents(names)
    stat, is_detailed = text.get("memory.stat", b""), use is not For.STATS
    found = _V1_STAT[is_detailed].numbers(stat)
    memory = _memory_v1(text, found)
    if not is_detailed:
        return CgroupStats(_cpu_v1(text, use), memory, None, pids)
    return CgroupStats(
        cpu=_cpu_v1(text, use),
        memory=memory,
        processes=pids,
        parts=_parts_v1(text, found[len(_V1_MEMORY) :]) if stat else None,
        devices=devices_v1(
            text.get("blkio.throttle.io_service_bytes_recursive", b""),
            text.get("blkio.throttle.io_serviced_recursive", b""),
        ),
        threads=_number(text, "pids.current"),
        most_threads=_number(text, "pids.max"),
        huge_pages=_huge_pages_v1(text, files) if use is For.METRICS else None,
    )


def _number(text: Texts, name: str) -> int | None:
    return whole_number(text.get(name, b""))


def _cpu_v1(text: Texts, use: For) -> CpuStats | None:
    usage = _number(text, "cpuacct.usage")
    if usage is None:
        return None
    if use is For.STATS:
        return CpuStats(usage)
    user, system = _V1_TIMES.numbers(text.get("cpuacct.stat", b""))
    throttling = _throttling(*_V1_THROTTLING.numbers(text.get("cpu.stat", b"")))
    return CpuStats(usage, None, _times(user, _TICK), _times(system, _TICK), throttling)


def _times(count: int | None, nanoseconds: int) -> int | None:
    return None if count is None else count * nanoseconds


def _throttling(periods: int | None, throttled: int | None, lost: int | None) -> tuple[int, int, int] | None:
    return None if periods is None or throttled is None or lost is None else (periods, throttled, lost)


def _memory_v1(text: Texts, found: Numbers) -> MemoryStats | None:
    usage = _number(text, "memory.usage_in_bytes")
    if usage is None:
        return None
    # The group's own: what a group far above is limited to says nothing of this one.
    limit = limit_v1(text.get("memory.limit_in_bytes", b""))
    both = limit_v1(text.get("memory.memsw.limit_in_bytes", b""))
    rss, swap, faults, major_faults, inactive_file = found[: len(_V1_MEMORY)]
    swap_limit = None if both is None or limit is None else max(both - limit, 0)
    return MemoryStats(usage, inactive_file, rss, faults, major_faults, limit, swap, swap_limit)


def _parts_v1(text: Texts, found: Numbers) -> MemoryDetails:
    own_faults, own_major_faults, cache, mapped_file, active_file = found
    return MemoryDetails(
        cache=cache,
        mapped_file=mapped_file,
        kernel=_number(text, "memory.kmem.usage_in_bytes"),
        active_file=active_file,
        peak=_number(text, "memory.max_usage_in_bytes"),
        limit_hits=_number(text, "memory.failcnt"),
        own_page_faults=own_faults,
        own_major_page_faults=own_major_faults,
        oom_kills=_V1_KILLS.numbers(text.get("memory.oom_control", b""))[0],
    )


def _stats_v2(
    files: OpenFiles, names: tuple[str, ...], use: For, pids: tuple[int, ...] | None
) -> CgroupStats:
    text = files.contents(names)
    stat, is_detailed = text.get("memory.stat", b""), use is not For.STATS
    found = _V2_STAT[is_detailed].numbers(stat)
    return CgroupStats(
        cpu=_cpu_v2(text, is_detailed=is_detailed),
        memory=_memory_v2(text, found),
        io_pressure=pressure(text.get("io.pressure", b"")),
        processes=pids,
        parts=_parts_v2(text, found[len(_V2_MEMORY) :]) if is_detailed and stat else None,
        devices=devices_v2(text.get("io.stat")),
        threads=_number(text, "pids.current"),
        most_threads=_number(text, "pids.max"),
        huge_pages=_huge_pages_v2(text) if use is For.METRICS else None,
    )


def _cpu_v2(text: Texts, *, is_detailed: bool) -> CpuStats | None:
    found = _V2_CPU[is_detailed].numbers(text.get("cpu.stat", b""))
    usage = found[0]
    if usage is None:
        return None
    waits = pressure(text.get("cpu.pressure", b""))
    if not is_detailed:
        return CpuStats(usage * 1000, waits)
    user, system, periods, throttled, lost = found[1:]
    return CpuStats(
        usage * 1000,
        waits,
        _times(user, 1000),
        _times(system, 1000),
        _throttling(periods, throttled, _times(lost, 1000)),
    )


def _memory_v2(text: Texts, found: Numbers) -> MemoryStats | None:
    usage = _number(text, "memory.current")
    if usage is None:
        return None
    rss, inactive_file, faults, major_faults = found[: len(_V2_MEMORY)]
    return MemoryStats(
        usage,
        inactive_file,
        rss,
        faults,
        major_faults,
        _number(text, "memory.max"),
        _number(text, "memory.swap.current"),
        _number(text, "memory.swap.max"),
        pressure(text.get("memory.pressure", b"")),
    )


def _parts_v2(text: Texts, found: Numbers) -> MemoryDetails:
    cache, kernel, mapped_file, active_file = found
    limit_hits, oom_kills = _V2_EVENTS.numbers(text.get("memory.events", b""))
    return MemoryDetails(
        cache=cache,
        mapped_file=mapped_file,
        kernel=kernel,
        active_file=active_file,
        peak=_number(text, "memory.peak"),
        limit_hits=limit_hits,
        own_page_faults=None,
        own_major_page_faults=None,
        oom_kills=oom_kills,
    )


def _huge_pages_v1(text: Texts, files: OpenFiles) -> tuple[HugePageStats, ...] | None:
    found = []
    for size, peak_name, usage_name in _huge_files_v1():
        peak = _number(text, peak_name)
        if peak is None:
            continue
        # What was never used is not in use: most containers, and one file less.
        used = whole_number(files.content(usage_name) or b"") if peak else 0
        if used is not None:
            found.append(HugePageStats(size, used, peak))
    return tuple(found) or None


def _huge_pages_v2(text: Texts) -> tuple[HugePageStats, ...] | None:
    found = ((size, _number(text, f"hugetlb.{size}.{_CURRENT}")) for size in _sizes())
    return tuple(HugePageStats(size, used, None) for size, used in found if used is not None) or None


@functools.cache
def _huge_files_v1() -> tuple[tuple[str, str, str], ...]:
    """Each size with the names of its files."""
    return tuple((size, f"hugetlb.{size}.{_PEAK}", f"hugetlb.{size}.{_USAGE}") for size in _sizes())


@functools.cache
def _sizes() -> tuple[str, ...]:
    """Of this kernel: they do not change while it runs."""
    return huge_page_sizes()
