"""The port `PodRuntime`: as on any host, with shims."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

from crib.backends.pods.pods import Pods
from crib.backends.pods.running import RunningPods
from crib.backends.shim.infra import ShimInfra
from crib.backends.shim.tools import ShimTools
from crib.model.ids import SandboxId
from crib.model.sandbox import SandboxRecord


class ShimPods(RunningPods):
    """The shims of pods that an earlier daemon made are watched again, if the pod is lost with its shim."""

    def __init__(self, tools: ShimTools, pods: Pods, infra: ShimInfra) -> None:
        super().__init__(tools.environment, pods, tools.bundles)
        self._infra = infra

    def losses(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        for record in ready():
            if record.infra is not None:
                self._infra.watch(record.id)
        return super().losses(ready)
