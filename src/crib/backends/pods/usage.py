"""What containers and pods use: cgroup counters, and the space of writable layers."""

from __future__ import annotations

import time

from crib.host.cgroup_stats import MemoryStats, PressureLine, PressureStats, StatsReader
from crib.host.files import disk_usage
from crib.host.threads import OURS, Job
from crib.model.ids import ContainerId
from crib.model.image import FilesystemUsage
from crib.model.paths import Paths
from crib.model.stats import CgroupUsage, CpuUsage, IoUsage, MemoryUsage, Pressure, Stall, SwapUsage

_DISK_PAUSE = 10.0
"""Seconds for which a measured writable layer counts as fresh: the kubelet asks every 10 to 15 s."""
_MAX_INODES = 2_000_000


class UsageReader:
    """Reads usage; remembers the last reading of each for rates. `forget` what is gone."""

    def __init__(self, paths: Paths, stats: StatsReader) -> None:
        self._paths = paths
        self._stats = stats
        self._last_cpu: dict[str, CpuUsage] = {}
        self._disks: dict[ContainerId, tuple[float, FilesystemUsage]] = {}

    def cgroup(self, path: str) -> CgroupUsage:
        """The cgroup's counters now; all None when it is gone."""
        try:
            stats = self._stats.read(path)
        except OSError:
            return CgroupUsage()
        at = time.time_ns()
        io = _pressure(stats.io_pressure)
        return CgroupUsage(
            cpu=None if stats.cpu_ns is None else self._cpu(path, at, stats.cpu_ns, stats.cpu_pressure),
            memory=None if stats.memory is None else _memory(at, stats.memory),
            swap=None if stats.memory is None else _swap(at, stats.memory),
            io=None if io is None else IoUsage(at, io),
            processes=stats.pids,
        )

    async def writable_layer(self, container: ContainerId) -> FilesystemUsage:
        """Space of a container's own files, measured again after 10 s at the earliest."""
        now = time.monotonic()
        known = self._disks.get(container)
        if known is not None and now - known[0] < _DISK_PAUSE:
            return known[1]
        path = f"{self._paths.writable_layer(container)}/upper"
        job = Job(f"measuring {path}", owner=container)
        usage = await OURS.run(job, disk_usage, path, _MAX_INODES)
        found = FilesystemUsage(self._paths.writable_layers, usage.bytes, usage.inodes, time.time_ns())
        self._disks[container] = (now, found)
        return found

    def forget(self, container: ContainerId, cgroup: str) -> None:
        """Drop what is remembered of a container."""
        self._disks.pop(container, None)
        self.forget_cgroup(cgroup)

    def forget_cgroup(self, cgroup: str) -> None:
        """Drop what is remembered of a cgroup."""
        self._last_cpu.pop(cgroup, None)

    def _cpu(self, path: str, at: int, usage: int, waits: PressureStats | None) -> CpuUsage:
        last = self._last_cpu.get(path)
        rate = None
        if last is not None and at > last.at and usage >= last.usage:
            rate = (usage - last.usage) * 1_000_000_000 // (at - last.at)
        reading = CpuUsage(at, usage, rate, _pressure(waits))
        self._last_cpu[path] = reading
        return reading


def _memory(at: int, found: MemoryStats) -> MemoryUsage:
    return MemoryUsage(
        at=at,
        usage=found.usage,
        working_set=found.working_set,
        rss=found.rss,
        page_faults=found.page_faults,
        major_page_faults=found.major_page_faults,
        available=None if found.limit is None else max(0, found.limit - found.working_set),
        pressure=_pressure(found.pressure),
    )


def _swap(at: int, found: MemoryStats) -> SwapUsage | None:
    used, limit = found.swap_usage, found.swap_limit
    if used is None:
        return None
    return SwapUsage(at, used, None if limit is None else max(0, limit - used))


def _pressure(found: PressureStats | None) -> Pressure | None:
    if found is None:
        return None
    return Pressure(_stall(found.some), None if found.full is None else _stall(found.full))


def _stall(line: PressureLine) -> Stall:
    return Stall(line.avg10, line.avg60, line.avg300, line.total_us * 1000)
