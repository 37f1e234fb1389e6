"""What containers and pods use, in the model's words: counters of cgroups, space of files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from crib.backends.pods.layer_sizes import LayerSizes
from crib.host.block_devices import device_name, filesystem_stats
from crib.host.cgroup_figures import CgroupStats, CpuStats, MemoryStats
from crib.host.cgroup_files import (
    PressureLine,
    PressureStats,
    count_descriptors,
    soft_descriptor_limit,
)
from crib.host.cgroup_stats import For, StatsReader
from crib.host.kept_files import KEPT_SECONDS
from crib.host.threads import OURS, Job
from crib.model.ids import ContainerId
from crib.model.paths import Paths
from crib.model.stats import (
    CgroupUsage,
    ContainerUsage,
    CpuUsage,
    DeviceIo,
    FilesystemRoom,
    HugePages,
    IoUsage,
    MemoryParts,
    MemoryUsage,
    Pressure,
    ProcessUsage,
    Stall,
    SwapUsage,
    Throttling,
)

MAX_COUNTED = 4096
"""Cgroups of which is remembered what their processes have open."""


class UsageReader:
    """Reads many cgroups in one job of a thread, so that the loop does not wait for the files."""

    def __init__(self, paths: Paths, stats: StatsReader) -> None:
        self._paths = paths
        self._stats = stats
        self._layers = LayerSizes(paths)
        self._counted: dict[str, tuple[int | None, tuple[int, ...], tuple[int, int] | None]] = {}
        """By cgroup: its CPU time, its processes, their descriptors and sockets then."""
        self._closing: asyncio.TimerHandle | None = None

    async def containers(
        self, asked: Sequence[tuple[ContainerId, str]], *, whole: bool = False
    ) -> list[ContainerUsage]:
        """Of these containers, with the path of the cgroup of each."""
        self._close_later()
        job = Job(f"reading the usage of {len(asked)} containers")
        cgroups, room = await OURS.run(job, self._containers, [cgroup for _, cgroup in asked], whole)
        layers = await self._layers.of(container for container, _ in asked)
        return [
            ContainerUsage(usage, layers.get(container), room)
            for (container, _), usage in zip(asked, cgroups, strict=True)
        ]

    async def pods(self, cgroups: Sequence[str], *, whole: bool = False) -> list[CgroupUsage]:
        """Of the pods with these cgroups."""
        self._close_later()
        job = Job(f"reading the usage of {len(cgroups)} pods")
        return await OURS.run(job, self._pods, cgroups, whole)

    def forget(self, container: ContainerId) -> None:
        """Drop what is remembered of a container."""
        self._layers.forget(container)

    def cgroup(
        self,
        path: str,
        use: For = For.STATS,
        *,
        processes: bool = False,
        open_files: bool = False,
    ) -> CgroupUsage:
        """The cgroup's counters now; all None when it is gone. Blocks for 20 to 150 µs."""
        at = time.time_ns()
        stats = self._stats.read(path, use, processes=processes)
        found = None if stats.processes is None else self._processes(path, at, stats, open_files=open_files)
        return _usage("" if use is For.STATS else path, at, stats, found)

    def _processes(self, path: str, at: int, stats: CgroupStats, *, open_files: bool) -> ProcessUsage:
        pids = stats.processes or ()
        if not open_files:
            return ProcessUsage(at, len(pids), stats.threads, stats.most_threads)
        descriptors, sockets = self._descriptors(path, pids, stats.cpu) or (None, None)
        limit = soft_descriptor_limit(pids)
        return ProcessUsage(at, len(pids), stats.threads, stats.most_threads, descriptors, sockets, limit)

    def _descriptors(self, path: str, pids: tuple[int, ...], cpu: CpuStats | None) -> tuple[int, int] | None:
        """What the processes have open. It is as before while none of them has run: nobody else opens any.

        The CPU time was read first, so whoever opens something during the count has run before the next one.
        """
        ran = None if cpu is None else cpu.usage
        before = self._counted.get(path)
        if before is not None and ran is not None and before[:2] == (ran, pids):
            return before[2]
        found = count_descriptors(pids)
        if len(self._counted) >= MAX_COUNTED:
            self._counted.clear()
        self._counted[path] = (ran, pids, found)
        return found

    def _close_later(self) -> None:
        """Files that stay open for the next question are closed when nobody asks for a while."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._close_old)

    def _close_old(self) -> None:
        self._closing = None
        if self._stats.close_old():
            self._close_later()
        else:
            self._counted.clear()

    def _containers(
        self, paths: Sequence[str], whole: bool
    ) -> tuple[list[CgroupUsage], FilesystemRoom | None]:
        if not whole:
            return [self.cgroup(path) for path in paths], None
        usages = [self.cgroup(path, For.METRICS, processes=True, open_files=True) for path in paths]
        return usages, _room(self._paths.writable_layers)

    def _pods(self, cgroups: Sequence[str], whole: bool) -> list[CgroupUsage]:
        use = For.POD_METRICS if whole else For.STATS
        return [self.cgroup(cgroup, use, processes=not whole) for cgroup in cgroups]


def _usage(path: str, at: int, stats: CgroupStats, processes: ProcessUsage | None) -> CgroupUsage:
    cpu, memory, io = stats.cpu, stats.memory, _pressure(stats.io_pressure)
    return CgroupUsage(
        None if cpu is None else _cpu(at, cpu),
        None if memory is None else _memory(at, memory, _parts(stats)),
        None if memory is None else _swap(at, memory),
        None if io is None and stats.devices is None else IoUsage(at, io, _devices(stats)),
        processes,
        _huge_pages(stats),
        None if stats.parts is None else stats.parts.oom_kills,
        path,
    )


def _cpu(at: int, found: CpuStats) -> CpuUsage:
    throttling = None if found.throttling is None else Throttling(*found.throttling)
    return CpuUsage(at, found.usage, _pressure(found.pressure), found.user, found.system, throttling)


def _memory(at: int, found: MemoryStats, parts: MemoryParts | None) -> MemoryUsage:
    limit, working_set = found.limit, found.working_set
    return MemoryUsage(
        at,
        found.usage,
        working_set,
        found.rss,
        found.page_faults,
        found.major_page_faults,
        limit,
        None if limit is None or working_set is None else max(0, limit - working_set),
        _pressure(found.pressure),
        parts,
    )


def _parts(stats: CgroupStats) -> MemoryParts | None:
    found = stats.parts
    if found is None:
        return None
    return MemoryParts(
        cache=found.cache,
        mapped_file=found.mapped_file,
        kernel=found.kernel,
        active_file=found.active_file,
        inactive_file=None if stats.memory is None else stats.memory.inactive_file,
        peak=found.peak,
        limit_hits=found.limit_hits,
        own_page_faults=found.own_page_faults,
        own_major_page_faults=found.own_major_page_faults,
    )


def _swap(at: int, found: MemoryStats) -> SwapUsage | None:
    used, limit = found.swap_usage, found.swap_limit
    if used is None:
        return None
    return SwapUsage(at, used, None if limit is None else max(0, limit - used))


def _room(path: str) -> FilesystemRoom | None:
    found = filesystem_stats(path)
    if found is None:
        return None
    return FilesystemRoom(found.device, found.size, found.inodes, found.free_inodes)


def _devices(stats: CgroupStats) -> tuple[DeviceIo, ...] | None:
    if stats.devices is None:
        return None
    return tuple(
        DeviceIo(device_name(each.major, each.minor), each.major, each.minor, each.moved, each.operations)
        for each in stats.devices
    )


def _huge_pages(stats: CgroupStats) -> tuple[HugePages, ...] | None:
    if stats.huge_pages is None:
        return None
    return tuple(HugePages(each.size, each.usage, each.peak) for each in stats.huge_pages)


def _pressure(found: PressureStats | None) -> Pressure | None:
    if found is None:
        return None
    return Pressure(_stall(found.some), None if found.full is None else _stall(found.full))


def _stall(line: PressureLine) -> Stall:
    return Stall(line.avg10, line.avg60, line.avg300, line.total_us * 1000)
