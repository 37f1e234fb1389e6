"""Plugins that a test speaks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from crib.model.plugin_status import PluginFigures, PluginStatus
from crib.model.plugins import (
    ContainerMoment,
    CreateAnswer,
    PluginOrders,
    PodMoment,
    ShownContainer,
    ShownPod,
    UpdateAnswer,
)
from crib.model.resource_change import ResourceChange
from crib.ports.clocks import StageTimer
from crib.ports.plugins import PluginHost

NAME = "NRI 10-fake"


@dataclass(frozen=True, slots=True)
class Told:
    """One call; `state` is the container's, or the pod's where it is about a pod."""

    moment: str
    subject: str
    state: str


@dataclass(slots=True)
class FakePlugins:
    """See ports.NodePlugins. `refuse` and `before` may be set by the moment's name."""

    present: bool = False
    deaf_to: set[str] = field(default_factory=set)
    """Calls that nobody wants."""
    told: list[Told] = field(default_factory=list)
    pods: list[ShownPod] = field(default_factory=list)
    containers: list[ShownContainer] = field(default_factory=list)
    before: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    """Awaited in the call: to hold it up, or to raise PluginRefused."""
    creates: CreateAnswer = field(default_factory=CreateAnswer)
    updates: UpdateAnswer = field(default_factory=UpdateAnswer)
    stops: PluginOrders = field(default_factory=PluginOrders)
    changes: list[ResourceChange] = field(default_factory=list)
    """What was asked for in updates."""
    host: PluginHost | None = None
    closed: bool = False
    figures: PluginFigures = field(default_factory=PluginFigures)
    """Nothing here is counted by itself."""
    known: Sequence[PluginStatus] = ()

    def hears(self, call: str) -> bool:
        return call not in self.deaf_to

    def statuses(self) -> Sequence[PluginStatus]:
        return self.known

    async def begin(self, host: PluginHost) -> None:
        self.host = host

    async def pod(self, moment: PodMoment, pod: ShownPod, stage: StageTimer) -> None:
        self.pods.append(pod)
        await self._call(moment, Told(moment, pod.record.id, pod.record.state), stage)

    async def container(
        self, moment: ContainerMoment, pod: ShownPod, container: ShownContainer, stage: StageTimer
    ) -> None:
        await self._call_about(moment, pod, container, stage)

    async def create(self, pod: ShownPod, container: ShownContainer, stage: StageTimer) -> CreateAnswer:
        await self._call_about("CreateContainer", pod, container, stage)
        return self.creates

    async def update(
        self, pod: ShownPod, container: ShownContainer, change: ResourceChange, stage: StageTimer
    ) -> UpdateAnswer:
        self.changes.append(change)
        await self._call_about("UpdateContainer", pod, container, stage)
        return self.updates

    async def stop(self, pod: ShownPod, container: ShownContainer, stage: StageTimer) -> PluginOrders:
        await self._call_about("StopContainer", pod, container, stage)
        return self.stops

    async def close(self) -> None:
        self.closed = True

    def moments(self, subject: str = "") -> list[str]:
        """What was told, of one pod or container or of all."""
        return [one.moment for one in self.told if not subject or one.subject == subject]

    async def _call_about(
        self, moment: str, pod: ShownPod, container: ShownContainer, stage: StageTimer
    ) -> None:
        self.pods.append(pod)
        self.containers.append(container)
        await self._call(moment, Told(moment, container.record.id, container.record.state), stage)

    async def _call(self, moment: str, told: Told, stage: StageTimer) -> None:
        with stage(NAME, moment):
            self.told.append(told)
            if (before := self.before.get(moment)) is not None:
                await before()
