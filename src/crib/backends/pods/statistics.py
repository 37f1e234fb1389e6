"""The port `Statistics`, of pods and containers that are in cgroups of this host."""

from __future__ import annotations

from collections.abc import Sequence

from crib.backends.environment import HandlerEnvironment
from crib.backends.failures import trying
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.pods import Pods
from crib.backends.pods.usage import UsageReader
from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.model.stats import CgroupUsage, ContainerUsage


class CgroupStatistics:
    """See Statistics."""

    def __init__(self, environment: HandlerEnvironment, pods: Pods, usage: UsageReader) -> None:
        self._names: CgroupNames = CgroupNames.of(environment.settings)
        self._pods = pods
        self._usage = usage

    async def containers(
        self, asked: Sequence[tuple[ContainerRecord, SandboxRecord]], *, whole: bool = False
    ) -> Sequence[ContainerUsage]:
        below, pod = self._names.below, self._pods.cgroup
        cgroups = [(record.id, below(pod(sandbox), record.id)) for record, sandbox in asked]
        with trying(f"usage of {len(cgroups)} containers"):
            return await self._usage.containers(cgroups, whole=whole)

    async def pods(self, asked: Sequence[SandboxRecord], *, whole: bool = False) -> Sequence[CgroupUsage]:
        cgroups = [self._pods.cgroup(record) for record in asked]
        with trying(f"usage of {len(cgroups)} pods"):
            return await self._usage.pods(cgroups, whole=whole)
