"""A container's life, from its create to its delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from crib.model.container import ContainerRecord, ContainerUser, Exit
from crib.model.edits import ContainerEdits
from crib.model.explanation import ExplainedSpec
from crib.model.image import ImageConfig, Layer
from crib.model.sandbox import ProcessIdentity, Resources, SandboxRecord
from crib.ports.checkpoints import CheckpointSource
from crib.ports.clocks import StageTimer

Adjust = Callable[[bytes], Awaitable[tuple[ContainerEdits, ...]]]
"""Takes the OCI spec (JSON) that a container would get, gives what is to be changed in it. May wait."""


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """All that a container is made from."""

    record: ContainerRecord
    sandbox: SandboxRecord
    image: ImageConfig
    edits: tuple[ContainerEdits, ...] = ()
    """What others than the request change in it, in their order. They come after what the handler itself
    finds on the host (CDI devices, hook files).

    The record does not hold them. Whoever makes them keeps them with the container, and passes the same ones
    to `explain`; without them an explanation cannot name their origin."""
    adjust: Adjust | None = None
    """Asked once by `create`, before anything of the container is written that a runtime reads. What it gives
    comes after `edits`."""
    layers: tuple[Layer, ...] = ()
    """The image's layers with what is known of their files, for kinds that read those themselves."""
    restore: CheckpointSource | None = None
    """Its root and its processes come from there; all else from the record. InvalidRequest, with the field
    `image.image`, when it is not sound."""


@dataclass(frozen=True, slots=True)
class RestoredProcesses:
    """The processes of a container that has none before its start, as it is restored from a checkpoint, or as
    its kind makes none before."""

    process: ProcessIdentity
    monitor: ProcessIdentity | None
    """See CreatedContainer."""


@dataclass(frozen=True, slots=True)
class CreatedContainer:
    """What `ContainerRuntime.create` made: the first process waits to be started.

    Of a container that is restored there is none yet.
    """

    user: ContainerUser
    process: ProcessIdentity | None
    """The first process; None where it is none of this host (in a virtual machine)."""
    monitor: ProcessIdentity | None
    """The process that reports its exit; None if none is needed for that."""
    stop_signal: int = 0  # 0: the record's


@dataclass(frozen=True, slots=True)
class Observation:
    """What the host says about a container, for recovery. `status` is the runtime's word, or `gone`."""

    status: str
    exit: Exit | None
    monitor_alive: bool
    """Whether its exit will be reported: by its monitor, or by what replaces one."""


class ContainerRuntime(Protocol):
    """Makes, runs and removes containers."""

    async def create(self, request: CreateRequest, stage: StageTimer) -> CreatedContainer:
        """Mount the root, write the bundle, run monitor and runtime's create. The record is CREATING."""
        ...

    async def explain(self, request: CreateRequest) -> ExplainedSpec:
        """The spec that `create` made, or would make now, and where its fields are from. Makes nothing.

        What an edit has added has the edit's origin.
        """
        ...

    def made_spec(self, record: ContainerRecord) -> bytes:
        """The OCI spec that it was made with, empty when that is gone."""
        ...

    async def start(self, record: ContainerRecord) -> RestoredProcesses | None:
        """Returns when the container's program runs (execve(2) has happened), or has ended already.

        With its processes where `create` has told none because there were none yet.
        """
        ...

    async def signal(self, record: ContainerRecord, signum: int, *, everyone: bool = False) -> None:
        """Signal the first process, or every process of the container. Gone already is fine."""
        ...

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        """Put `resources` in force instead of `record.resources`, in a created or running container.

        All or nothing: what was changed before something failed is changed back. InvalidRequest for what
        cannot be asked for here, WrongState for a memory limit below what is in use.
        """
        ...

    async def delete(self, record: ContainerRecord) -> None:
        """Kill what is left, unmount the root, remove bundle, writable layer, exit file, sockets, cgroup."""
        ...

    def exits(self) -> AsyncIterator[Exit]:
        """First the exits that are on file, then new ones as they happen; ends never."""
        ...

    async def observe(self, record: ContainerRecord) -> Observation: ...
