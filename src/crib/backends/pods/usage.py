"""What containers and pods use, in the model's words: counters of cgroups, space of files."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from crib.backends.pods.layer_sizes import LayerSizes
from crib.host.block_devices import device_name, filesystem_stats
from crib.host.cgroup_files import (
    PressureLine,
    PressureStats,
    count_descriptors,
    soft_descriptor_limit,
)
from crib.host.cgroup_stats import CgroupStats, CpuStats, For, MemoryStats, StatsReader
from crib.host.threads import OURS, Job
from crib.model.ids import ContainerId, SandboxId
from crib.model.image import FilesystemUsage
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
    PodUsage,
    Pressure,
    ProcessUsage,
    Stall,
    SwapUsage,
    Throttling,
)


class UsageReader:
    """Reads many cgroups in one job of a thread, so that the loop does not wait for the files."""

    def __init__(self, paths: Paths, stats: StatsReader) -> None:
        self._paths = paths
        self._stats = stats
        self._layers = LayerSizes(paths)

    async def containers(
        self, asked: Sequence[tuple[ContainerId, str]], *, whole: bool = False
    ) -> list[ContainerUsage]:
        """Of these containers, with the path of the cgroup of each."""
        job = Job(f"reading the usage of {len(asked)} containers")
        cgroups, room = await OURS.run(job, self._containers, [cgroup for _, cgroup in asked], whole)
        layers = await self._layers.of(container for container, _ in asked)
        return [
            ContainerUsage(usage, layers.get(container), room)
            for (container, _), usage in zip(asked, cgroups, strict=True)
        ]

    async def pods(self, asked: Sequence[tuple[SandboxId, str]], *, whole: bool = False) -> list[PodUsage]:
        """Of these pods, with the path of the cgroup of each."""
        job = Job(f"reading the usage of {len(asked)} pods")
        return await OURS.run(job, self._pods, asked, whole)

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
        """The cgroup's counters now; all None when it is gone. Blocks for 40 to 150 µs."""
        at = time.time_ns()
        stats = self._stats.read(path, use, processes=processes)
        return _usage("" if use is For.STATS else path, at, stats, open_files=open_files)

    def _containers(
        self, paths: Sequence[str], whole: bool
    ) -> tuple[list[CgroupUsage], FilesystemRoom | None]:
        if not whole:
            return [self.cgroup(path) for path in paths], None
        usages = [self.cgroup(path, For.METRICS, processes=True, open_files=True) for path in paths]
        return usages, _room(self._paths.writable_layers)

    def _pods(self, asked: Sequence[tuple[SandboxId, str]], whole: bool) -> list[PodUsage]:
        use = For.POD_METRICS if whole else For.STATS
        cgroups = [self.cgroup(cgroup, use, processes=not whole) for _, cgroup in asked]
        return [
            PodUsage(usage, files=self._files(pod) if whole else None)
            for (pod, _), usage in zip(asked, cgroups, strict=True)
        ]

    def _files(self, pod: SandboxId) -> FilesystemUsage | None:
        """Of the pod's own file systems, which are small tmpfs."""
        place, shm = self._paths.sandbox(pod), self._paths.shm(pod)
        try:
            if not _is_mounted(place):
                return None
            found = [os.statvfs(each) for each in (place, shm) if each is place or _is_mounted(each)]
        except FileNotFoundError:
            return None
        return FilesystemUsage(
            place,
            sum((each.f_blocks - each.f_bfree) * each.f_frsize for each in found),
            sum(each.f_files - each.f_ffree for each in found),
            time.time_ns(),
        )


def _is_mounted(place: str) -> bool:
    try:
        return os.stat(place).st_dev != os.stat(os.path.dirname(place)).st_dev
    except FileNotFoundError:
        return False


def _usage(path: str, at: int, stats: CgroupStats, *, open_files: bool) -> CgroupUsage:
    io = _pressure(stats.io_pressure)
    return CgroupUsage(
        cpu=None if stats.cpu is None else _cpu(at, stats.cpu),
        memory=None if stats.memory is None else _memory(at, stats.memory, _parts(stats)),
        swap=None if stats.memory is None else _swap(at, stats.memory),
        io=None if io is None and stats.devices is None else IoUsage(at, io, _devices(stats)),
        processes=None if stats.processes is None else _processes(at, stats, open_files=open_files),
        huge_pages=_huge_pages(stats),
        oom_kills=None if stats.parts is None else stats.parts.oom_kills,
        path=path,
    )


def _cpu(at: int, found: CpuStats) -> CpuUsage:
    return CpuUsage(
        at=at,
        usage=found.usage,
        pressure=_pressure(found.pressure),
        user=found.user,
        system=found.system,
        throttling=None if found.throttling is None else Throttling(*found.throttling),
    )


def _memory(at: int, found: MemoryStats, parts: MemoryParts | None) -> MemoryUsage:
    limit, working_set = found.limit, found.working_set
    return MemoryUsage(
        at=at,
        usage=found.usage,
        working_set=working_set,
        rss=found.rss,
        page_faults=found.page_faults,
        major_page_faults=found.major_page_faults,
        limit=limit,
        available=None if limit is None or working_set is None else max(0, limit - working_set),
        pressure=_pressure(found.pressure),
        parts=parts,
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


def _processes(at: int, stats: CgroupStats, *, open_files: bool) -> ProcessUsage:
    pids = stats.processes or ()
    descriptors, sockets = (count_descriptors(pids) if open_files else None) or (None, None)
    return ProcessUsage(
        at=at,
        processes=len(pids),
        threads=stats.threads,
        most_threads=stats.most_threads,
        descriptors=descriptors,
        sockets=sockets,
        descriptors_limit=soft_descriptor_limit(pids) if open_files else None,
    )


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
