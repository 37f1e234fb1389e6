"""Events, of containers (CRI GetContainerEvents) and of the node; and the stages of a pod (timeline)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord


class EventType(IntEnum):
    """CRI ContainerEventType, same numbers."""

    CREATED = 0
    STARTED = 1
    STOPPED = 2
    DELETED = 3


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """Something happened to a container or a sandbox; it carries the states as they were then."""

    container_id: str
    """The container's id, or the sandbox's own."""
    type: EventType
    at: int
    sandbox: SandboxRecord | None
    containers: tuple[ContainerRecord, ...]


class EventKind(StrEnum):
    """What a node's event is about."""

    CONTAINER = "container"
    POD = "pod"
    IMAGE = "image"
    NETWORK = "network"
    VOLUME = "volume"
    NODE = "node"


EVENT_ACTIONS: Mapping[EventKind, Mapping[str, str]] = {
    EventKind.CONTAINER: {
        "created": "it was made; the message is its image",
        "started": "its program runs",
        "unhealthy": "of a kept pod: a probe has failed as often as it may; the message says which and how",
        "healthy": "of a kept pod: its readiness probe succeeds again",
        "backing off": "of a kept pod: it waits to be started again; the message says why and how long",
        "restarted": "of a kept pod: it was started again; the message says why and by whom",
        "stopped": "its program has ended, or could not be started; with the exit code and the reason",
        "evicted": "a node plugin wants it stopped; the message says which one and why",
        "abandoned": "`crib abandon` gave it up; it is being removed",
        "deleted": "nothing of it is left",
    },
    EventKind.POD: {
        "started": "it is ready; the message is its addresses",
        "addresses changed": "its network was made again with other addresses",
        "lost": "it is no longer ready, though nobody stopped it; the message says why",
        "abandoned": "`crib abandon` gave it up; it is being removed",
        "stopped": "its containers have ended and its network was given back",
        "deleted": "nothing of it is left",
    },
    EventKind.IMAGE: {
        "pulled": "it was fetched, or found to be here whole",
        "pull failed": "the message says why",
        "imported": "the message is the archive",
        "removed": "its names are gone; layers go when no container needs them",
    },
    EventKind.NETWORK: {
        "ready": "pods can be attached again",
        "not ready": "pods cannot be attached; the message says why",
        "configured": "the kubelet told the node's pod ranges",
        "repaired": "a pod's network was damaged and made again",
        "released": "something was held for a pod that is not there",
        "removed": "the built-in bridge",
    },
    EventKind.VOLUME: {
        "created": "the message is its kind",
        "removed": "with what it held",
        "resized": "the message is its size",
        "kept": "a snapshot was made of it; the message is its name",
        "published again": "the node was rebooted, and pods have it again",
        "not published": "the node was rebooted, and pods do not have it again; the message says why",
    },
    EventKind.NODE: {
        "started": "cribd began",
        "stopped": "cribd was asked to end, and has ended; after a kill it is missing",
        "reloaded": "cribd read its configuration again; the message says which keys changed",
        "fault": "nothing is made until it has ended",
        "warning": "something is unusual, such as a stage that takes long",
        "notice": "something was mended or lost, or a fault or warning has ended",
        "unreadable": "an event that another version of crib wrote",
    },
}
"""Every action of a node's event, by its kind, and what it says."""


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something happened on the node. It is kept for a while, for readers that come later."""

    kind: EventKind
    action: str
    """One of EVENT_ACTIONS."""
    at: int
    """Nanoseconds since the epoch."""
    subject: str = ""
    """Id of the container, pod sandbox or image, or what a notice is about."""
    pod_id: str = ""
    """Id of the pod sandbox that it happened in."""
    pod: str = ""
    """NAMESPACE/NAME of that pod."""
    name: str = ""
    """The container's name, or the image's."""
    text: str = ""
    """More about it: addresses, reason, message."""
    exit_code: int | None = None
    """Of a container that has ended."""
    number: int = 0
    """Given by the journal that keeps it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a pod's life. `subject` is the container, image or plugin that it was for."""

    name: str
    subject: str
    started_at: int
    duration: int
    """Nanoseconds."""
    outcome: str
    """`ok`, `running`, or the error's text."""
    parent: int = 0
    """Place, from 1, of the stage that this one is a part of; 0 for none."""
    program: str = ""
    """The program that ran in it, the last one of several."""
    program_time: int = 0
    """Nanoseconds from the start to the end of its programs."""
    program_cpu: int = 0
    """Nanoseconds of CPU that these used, with what they have waited for themselves (wait4(2)): the rest of
    `program_time` they waited."""


@dataclass(frozen=True, slots=True)
class PodTimeline:
    """What is kept of a pod sandbox's stages."""

    pod: str = ""
    """NAMESPACE/NAME."""
    stages: tuple[Stage, ...] = ()
    """In the order in which they began."""
    dropped: int = 0
    """How many there were besides."""
