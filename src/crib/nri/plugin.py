"""What a plugin is: the methods that it may define, and what it may ask its runtime."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from crib.nri.changes import ContainerChanges, ContainerUpdates, NewContainerChanges
from crib.nri.identity import NriError
from crib.stubs.nri.v1alpha1 import api_pb2 as messages
from crib.stubs.nri.v1alpha1.api_pb2 import Container, Event, LinuxResources, PodSandbox
from crib.ttrpc.messages import ServiceClient

RUNTIME_SERVICE = "nri.pkg.api.v1alpha1.Runtime"
UPDATE_SECONDS = 30.0
"""For an update of containers that no event has asked for: a runtime may have several plugins to ask first.
"""


class AdjustmentRejected(Exception):
    """A plugin raises it when it validates: the container is not created, and its reason is told."""


@dataclass(frozen=True, slots=True)
class NriRuntime:
    """The runtime that a plugin is connected to."""

    name: str
    version: str
    nri_version: str
    """Of the interface; empty if the runtime does not say."""
    registration_timeout: float
    """Seconds that the runtime gives a plugin until it is registered."""
    request_timeout: float
    """Seconds that the runtime waits for the answer to an event; it drops the plugin after that."""
    service: ServiceClient

    async def change_containers(self, changes: ContainerChanges) -> list[messages.ContainerUpdate]:
        """Change and evict containers without an event. Returns the updates that failed.

        Not within an event: the runtime may handle one thing at a time. There the answer takes changes.
        CallFailed or PeerLost of `crib.ttrpc.errors`.
        """
        request = messages.UpdateContainersRequest(update=changes.updates, evict=changes.evictions)
        answer = await self.service.call(
            "UpdateContainers", request, messages.UpdateContainersResponse, UPDATE_SECONDS
        )
        return list(answer.failed)


class NodePlugin:
    """To be derived from. Methods that are not defined are not asked for by the runtime.

    Events come in the order in which they happen; where a method waits, the next one may begin. The runtime
    waits for the answer, so a method does not do lengthy work. An exception is an answer too: what the event
    belongs to fails.
    """

    runtime: NriRuntime
    """There from `configure` on."""

    # the plugin's own life

    async def configure(self, config: str) -> Collection[Event.ValueType] | None:
        """The runtime's configuration for this plugin, as it is in its file; empty without one.

        May return fewer events to be subscribed to than there are methods.
        """

    async def synchronize(
        self, pods: Sequence[PodSandbox], containers: Sequence[Container], updates: ContainerUpdates
    ) -> None:
        """All pods and containers that there are. Comes after every connect, and before any event."""

    async def shutdown(self) -> None:
        """The runtime ends."""

    # pods

    async def run_pod_sandbox(self, pod: PodSandbox) -> None:
        """A pod is there, with its network, and has no containers yet."""

    async def update_pod_sandbox(
        self, pod: PodSandbox, overhead: LinuxResources, resources: LinuxResources
    ) -> None:
        """A pod gets new limits."""

    async def post_update_pod_sandbox(self, pod: PodSandbox) -> None:
        """It has them."""

    async def stop_pod_sandbox(self, pod: PodSandbox) -> None:
        """A pod has been stopped, with its containers."""

    async def remove_pod_sandbox(self, pod: PodSandbox) -> None:
        """A pod is removed."""

    # containers

    async def create_container(
        self, pod: PodSandbox, container: Container, changes: NewContainerChanges
    ) -> None:
        """A container is being made: adjust it, and change others."""

    async def validate_container_adjustment(
        self, request: messages.ValidateContainerAdjustmentRequest
    ) -> None:
        """What all plugins together want of a new container. AdjustmentRejected to refuse it."""

    async def post_create_container(self, pod: PodSandbox, container: Container) -> None:
        """A container has been made, as it is now."""

    async def start_container(self, pod: PodSandbox, container: Container) -> None:
        """A container is about to start."""

    async def post_start_container(self, pod: PodSandbox, container: Container) -> None:
        """It runs."""

    async def update_container(
        self, pod: PodSandbox, container: Container, resources: LinuxResources, changes: ContainerChanges
    ) -> None:
        """A container gets `resources` as its limits, unless an update of the same container says others."""

    async def post_update_container(self, pod: PodSandbox, container: Container) -> None:
        """It has them."""

    async def stop_container(self, pod: PodSandbox, container: Container, updates: ContainerUpdates) -> None:
        """A container has ended: update others."""

    async def remove_container(self, pod: PodSandbox, container: Container) -> None:
        """A container is removed."""


EVENTS: dict[str, Event.ValueType] = {
    name: Event.Value(name.upper())
    for name in (
        *("run_pod_sandbox", "update_pod_sandbox", "post_update_pod_sandbox"),
        *("stop_pod_sandbox", "remove_pod_sandbox"),
        *("create_container", "validate_container_adjustment", "post_create_container"),
        *("start_container", "post_start_container"),
        *("update_container", "post_update_container"),
        *("stop_container", "remove_container"),
    )
}
"""By the names of methods."""


def events_of(plugin: NodePlugin) -> frozenset[Event.ValueType]:
    """The events whose methods this plugin defines. NriError if it defines none.

    A subscription to nothing is one to everything (NRI's Configure).
    """
    defined = frozenset(
        event
        for name, event in EVENTS.items()
        if getattr(type(plugin), name) is not getattr(NodePlugin, name)
    )
    if not defined:
        raise NriError(f"{type(plugin).__name__} defines no method for an event")
    return defined


def mask_of(events: Collection[Event.ValueType]) -> int:
    """A subscription as the wire has it."""
    return sum(1 << (event - 1) for event in set(events))
