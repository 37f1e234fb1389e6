"""Container events (CRI GetContainerEvents) and the stages of a pod's start (timeline)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

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


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a pod's start. `subject` is the container, image or plugin that it was for."""

    name: str
    subject: str
    started_at: int
    duration: int
    """Nanoseconds."""
    outcome: str
    """`ok`, or the error's text."""
    parent: int = 0
    """Place, from 1, of the stage that this one is a part of; 0 for none."""
