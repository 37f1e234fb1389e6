"""The port `Statistics`: from cgroups of this host, or by a shim's word where a pod has its own kernel."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from crib.backends.pods.pods import Pods
from crib.backends.pods.statistics import CgroupStatistics
from crib.backends.shim.nouns import Typed
from crib.backends.shim.tools import ShimTools
from crib.model.container import ContainerRecord
from crib.model.errors import CribError
from crib.model.ids import ContainerId
from crib.model.sandbox import SandboxRecord
from crib.model.stats import CgroupUsage, ContainerUsage, CpuUsage, MemoryUsage, ProcessUsage
from crib.stubs.shim import metrics_v1_pb2, metrics_v2_pb2
from crib.tasks.groups import all_of

_log = logging.getLogger(__name__)

ANSWER_TIME = 5.0
"""Seconds for one container: who asks for statistics asks again."""
TOGETHER = 16
"""Shims that are asked at a time."""
_V1 = "io.containerd.cgroups.v1.Metrics"
_V2 = "io.containerd.cgroups.v2.Metrics"
_MICROSECONDS = 1000


class ShimStatistics(CgroupStatistics):
    """Pods are in cgroups of this host in any case."""

    def __init__(self, tools: ShimTools, pods: Pods) -> None:
        super().__init__(tools.environment, pods, tools.usage)
        self._tools = tools
        self._places = asyncio.Semaphore(TOGETHER)

    async def containers(
        self, asked: Sequence[tuple[ContainerRecord, SandboxRecord]], *, whole: bool = False
    ) -> Sequence[ContainerUsage]:
        usages = await super().containers(asked, whole=whole)
        if not self._tools.environment.facts.own_kernel:
            return usages
        inside = await all_of("usage of containers", (self._told(record.id) for record, _ in asked))
        told = inside if whole else map(_ordinary, inside)
        return [usage._replace(cgroup=found) for usage, found in zip(usages, told, strict=True)]

    async def _told(self, container: ContainerId) -> CgroupUsage:
        """Nothing of one that does not run, or whose shim does not answer."""
        try:
            async with self._places, asyncio.timeout(ANSWER_TIME):
                said = await (await self._tools.services.of(container)).stats(container)
            return read_metrics(said, time.time_ns())
        except (CribError, TimeoutError, DecodeError) as error:
            _log.debug("usage of container %s: %s", container, error)
            return CgroupUsage()


def _ordinary(told: CgroupUsage) -> CgroupUsage:
    """Without what only a whole reading has, as of a cgroup of this host."""
    cpu = told.cpu._replace(user=None, system=None) if told.cpu is not None else None
    return told._replace(cpu=cpu, processes=None)


def read_metrics(said: Typed, at: int) -> CgroupUsage:
    """What a shim tells, of the types that containerd knows; nothing of others. DecodeError."""
    name = said.type_url.rpartition("/")[2]
    if name == _V1:
        return _of_v1(metrics_v1_pb2.Metrics.FromString(said.value), at)
    if name == _V2:
        return _of_v2(metrics_v2_pb2.Metrics.FromString(said.value), at)
    return CgroupUsage()


def _of_v1(said: metrics_v1_pb2.Metrics, at: int) -> CgroupUsage:
    cpu, memory = said.cpu.usage, said.memory
    used = memory.usage.usage
    return CgroupUsage(
        cpu=CpuUsage(at, cpu.total, user=cpu.user, system=cpu.kernel) if said.HasField("cpu") else None,
        memory=_memory(at, used, memory.total_inactive_file, memory.total_rss, memory.usage.limit)
        if said.HasField("memory")
        else None,
        processes=ProcessUsage(at, said.pids.current) if said.HasField("pids") else None,
    )


def _of_v2(said: metrics_v2_pb2.Metrics, at: int) -> CgroupUsage:
    cpu, memory = said.cpu, said.memory
    return CgroupUsage(
        cpu=CpuUsage(
            at,
            cpu.usage_usec * _MICROSECONDS,
            user=cpu.user_usec * _MICROSECONDS,
            system=cpu.system_usec * _MICROSECONDS,
        )
        if said.HasField("cpu")
        else None,
        memory=_memory(at, memory.usage, memory.inactive_file, memory.anon, memory.usage_limit)
        if said.HasField("memory")
        else None,
        processes=ProcessUsage(at, said.pids.current) if said.HasField("pids") else None,
    )


def _memory(at: int, used: int, inactive: int, rss: int, limit: int) -> MemoryUsage:
    """As of a cgroup of this host: what can be dropped at once is not in use."""
    working_set = max(0, used - inactive)
    limited = 0 < limit < 1 << 62
    return MemoryUsage(
        at,
        used,
        working_set=working_set,
        rss=rss,
        limit=limit if limited else None,
        available=max(0, limit - working_set) if limited else None,
    )
