"""The figures of one cgroup, as the kernel has them."""

from __future__ import annotations

from typing import NamedTuple

from crib.host.cgroup_files import DeviceStats, PressureStats


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
