"""Node plugins (NRI): what they are shown of pods and containers, and what they may want done.

The moments have the names of the protocol's calls (nri/pkg/api/api.proto, service Plugin).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from crib.model.container import ContainerRecord
from crib.model.edits import ContainerEdits
from crib.model.ids import ContainerId
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import Resources, SandboxRecord


class PodMoment(StrEnum):
    """When plugins are told of a pod."""

    RUN = "RunPodSandbox"
    UPDATE = "UpdatePodSandbox"
    POST_UPDATE = "PostUpdatePodSandbox"
    STOP = "StopPodSandbox"
    REMOVE = "RemovePodSandbox"


class ContainerMoment(StrEnum):
    """When plugins are told of a container, and have nothing to answer."""

    POST_CREATE = "PostCreateContainer"
    START = "StartContainer"
    POST_START = "PostStartContainer"
    POST_UPDATE = "PostUpdateContainer"
    REMOVE = "RemoveContainer"


@dataclass(frozen=True, slots=True)
class ShownPod:
    """A pod, as plugins are shown it."""

    record: SandboxRecord
    spec: bytes = b""
    """The OCI spec that it was made with (JSON): namespaces, cgroup. Empty when that is gone."""
    overhead: Resources | None = None
    """At `PodMoment.UPDATE`: what is asked for, as with `resources`. The record has what is in force."""
    resources: Resources | None = None


@dataclass(frozen=True, slots=True)
class ShownContainer:
    """A container, as plugins are shown it; `record.state` is the state that they are told."""

    record: ContainerRecord
    spec: bytes = b""
    """Its OCI spec (JSON): while it is being created the one that it would get without plugins, later the
    one that it was made with. Empty when that is gone."""


@dataclass(frozen=True, slots=True)
class ShownNode:
    """All that there is, for a plugin that has just come. No container here is without its pod."""

    pods: tuple[ShownPod, ...]
    containers: tuple[ShownContainer, ...]


@dataclass(frozen=True, slots=True)
class ContainerUpdate:
    """Other limits that a plugin wants for a container."""

    container: ContainerId
    change: ResourceChange
    plugin: str
    """Who wants it, as `10-name`."""
    ignore_failure: bool = False
    """Whether it does not matter if it fails."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """A container that a plugin wants stopped."""

    container: ContainerId
    reason: str
    """In the plugin's words, for people."""
    plugin: str
    """Who wants it, as `10-name`."""


@dataclass(frozen=True, slots=True)
class PluginOrders:
    """What plugins want done to other containers than the one that they were asked about."""

    updates: tuple[ContainerUpdate, ...] = ()
    evictions: tuple[Eviction, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateAnswer:
    """What plugins make of a container that is being created."""

    edits: tuple[ContainerEdits, ...] = ()
    """In the order of the plugins, each with the origin `NRI 10-name`."""
    orders: PluginOrders = PluginOrders()


@dataclass(frozen=True, slots=True)
class UpdateAnswer:
    """What plugins make of an update that was asked for."""

    change: ResourceChange | None = None
    """All of what is to change in the container itself; None: as it was asked for."""
    orders: PluginOrders = PluginOrders()


@dataclass(frozen=True, slots=True)
class FailedUpdate:
    """An update that could not be carried out."""

    update: ContainerUpdate
    problem: str
