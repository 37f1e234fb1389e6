"""The port `PodRuntime`, for all kinds of handlers that run pods on this host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

from crib.backends.bundle.bundles import Bundles
from crib.backends.environment import HandlerEnvironment
from crib.backends.failures import trying
from crib.backends.pods.losses import PodLosses
from crib.backends.pods.pods import Pods
from crib.backends.pods.updates import Updates
from crib.model.ids import SandboxId
from crib.model.sandbox import ProcessIdentity, SandboxRecord
from crib.ports.clocks import StageTimer


class RunningPods:
    """See PodRuntime."""

    def __init__(self, environment: HandlerEnvironment, pods: Pods, bundles: Bundles) -> None:
        self._pods = pods
        self._paths = environment.paths
        self._losses = PodLosses(self._paths)
        self._updates = Updates(environment, bundles)

    async def prepare(self, record: SandboxRecord, stage: StageTimer) -> None:
        await self._pods.prepare(record, stage)

    async def start(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        infra = await self._pods.start(record, stage)
        if infra is not None:
            self._losses.watch(record.id, infra)
        return infra

    async def stop(self, record: SandboxRecord) -> None:
        await self._pods.stop(record)

    async def remove(self, record: SandboxRecord) -> None:
        await self._pods.remove(record)

    def netns_path(self, record: SandboxRecord) -> str:
        return "" if record.config.host_network else self._paths.namespace(record.id, "net")

    def made_spec(self, record: SandboxRecord) -> bytes:
        with trying(f"reading the spec of {record.id}"):
            return self._pods.made_spec(record)

    async def update(self, record: SandboxRecord) -> None:
        await self._updates.pod(record)

    async def alive(self, record: SandboxRecord) -> bool:
        with trying(f"looking at pod sandbox {record.id}"):
            return await self._pods.alive(record)

    def losses(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        return self._losses.stream(ready)
