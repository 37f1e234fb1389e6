"""Node plugins (NRI): who is asked and told about pods and containers, and what such a plugin may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from crib.model.plugin_status import PluginFigures, PluginStatus
from crib.model.plugins import (
    ContainerMoment,
    ContainerUpdate,
    CreateAnswer,
    Eviction,
    FailedUpdate,
    PluginOrders,
    PodMoment,
    ShownContainer,
    ShownNode,
    ShownPod,
    UpdateAnswer,
)
from crib.model.resource_change import ResourceChange
from crib.ports.clocks import StageTimer


class PluginRefused(Exception):
    """A plugin answered with an error, two plugins contradict each other, or a validator says no.

    The message names the plugin and the moment. A plugin that is away or does not answer in time is no
    refusal: it is dropped, and the verb goes on without it.
    """


class PluginHost(Protocol):
    """What plugins may ask for: the verbs' side."""

    def alone(self) -> AbstractAsyncContextManager[ShownNode]:
        """All that there is. While the context is open no pod and no container is made, and plugins are told
        of nothing. So a plugin that is counted among the others before it closes misses nothing and is told
        nothing twice. Who opens it bounds that: calls of clients wait.

        Entering waits for what is being made just now; Unavailable when that takes too long.
        """
        ...

    def note(self, subject: str, text: str) -> None:
        """Tell administrators of what is unusual about a subject; an empty text says that it is over."""
        ...

    async def update(self, updates: Sequence[ContainerUpdate]) -> Sequence[FailedUpdate]:
        """Carry out what plugins want without having been asked, one after the other; returns what failed.

        Not to be called while `alone` is open.
        """
        ...

    async def evict(self, evictions: Sequence[Eviction]) -> None:
        """Stop containers, each with the grace of its pod. Returns when all stops have begun.

        Not to be called while `alone` is open.
        """
        ...


class NodePlugins(Protocol):
    """All plugins that are connected, as one.

    For one verb they are called one after the other, in the order of their indices. One plugin is never
    called twice at a time. `stage` times each call by the name of the plugin and the moment.
    """

    @property
    def present(self) -> bool:
        """Whether there is anybody to ask or to tell; False costs a verb nothing else.

        Also true while a configured rule may refuse a create without any plugin (required plugins).
        """
        ...

    def hears(self, call: str) -> bool:
        """Whether a plugin wants to be asked or told by this call, such as `StopContainer`.

        Nothing need be read or put together for what nobody hears.
        """
        ...

    @property
    def figures(self) -> PluginFigures:
        """What is counted of plugins."""
        ...

    def statuses(self) -> Sequence[PluginStatus]:
        """Each plugin: those that take part first, in the order in which they are asked."""
        ...

    async def begin(self, host: PluginHost) -> None:
        """Let plugins connect, and start those that are installed. What cannot be had is logged and noted.

        Called when the records are true, before anything new is made.
        """
        ...

    async def pod(self, moment: PodMoment, pod: ShownPod, stage: StageTimer) -> None:
        """PluginRefused."""
        ...

    async def container(
        self, moment: ContainerMoment, pod: ShownPod, container: ShownContainer, stage: StageTimer
    ) -> None:
        """PluginRefused."""
        ...

    async def create(self, pod: ShownPod, container: ShownContainer, stage: StageTimer) -> CreateAnswer:
        """Ask what is to be changed in a container before it is made. PluginRefused."""
        ...

    async def update(
        self, pod: ShownPod, container: ShownContainer, change: ResourceChange, stage: StageTimer
    ) -> UpdateAnswer:
        """Ask about other limits that a client wants. PluginRefused."""
        ...

    async def stop(self, pod: ShownPod, container: ShownContainer, stage: StageTimer) -> PluginOrders:
        """Tell that a container has ended, by itself or not. PluginRefused."""
        ...

    async def close(self) -> None:
        """Tell all plugins that the daemon stops, and end those that were started."""
        ...
