"""The port `Statistics`: from cgroups of this host, where the Engine has a container's below ours."""

from __future__ import annotations

from collections.abc import Sequence

from crib.backends.docker.tools import DockerTools
from crib.backends.failures import trying
from crib.backends.pods.pods import Pods
from crib.backends.pods.statistics import CgroupStatistics
from crib.host.threads import OURS
from crib.model.container import ContainerRecord
from crib.model.ids import ContainerId
from crib.model.sandbox import SandboxRecord
from crib.model.stats import ContainerUsage


class DockerStatistics(CgroupStatistics):
    """That of a container that has ended is what is above it: the Engine removes its own."""

    def __init__(self, tools: DockerTools, pods: Pods) -> None:
        super().__init__(tools.environment, pods, tools.usage)
        self._tools = tools

    async def containers(
        self, asked: Sequence[tuple[ContainerRecord, SandboxRecord]], *, whole: bool = False
    ) -> Sequence[ContainerUsage]:
        above = [self._names.below(self._pods.cgroup(sandbox), record.id) for record, sandbox in asked]
        with trying(f"usage of {len(asked)} containers"):
            ids = [record.id for record, _ in asked]
            cgroups = await OURS.run("looking for cgroups of containers", self._cgroups, ids, above)
            return await self._usage.containers(list(zip(ids, cgroups, strict=True)), whole=whole)

    def _cgroups(self, containers: Sequence[ContainerId], above: Sequence[str]) -> list[str]:
        found = []
        for container, path in zip(containers, above, strict=True):
            note = self._tools.bundles.read_note(container)
            there = note is not None and self._tools.environment.cgroups.exists(note.cgroup)
            found.append(note.cgroup if note is not None and there else path)
        return found
