"""A container's life, from its create to its delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from crib.model.container import ContainerRecord, ContainerUser, Exit
from crib.model.explanation import ExplainedSpec
from crib.model.image import ImageConfig
from crib.model.sandbox import ProcessIdentity, Resources, SandboxRecord
from crib.ports.clocks import StageTimer


@dataclass(frozen=True, slots=True)
class CreatedContainer:
    """What `ContainerRuntime.create` made: the first process waits to be started."""

    process: ProcessIdentity
    monitor: ProcessIdentity
    user: ContainerUser
    stop_signal: int = 0  # 0: the record's


@dataclass(frozen=True, slots=True)
class Observation:
    """What the world says of a container, for recovery; `status` is the runtime's word, or `gone`."""

    status: str
    exit: Exit | None
    monitor_alive: bool


class ContainerRuntime(Protocol):
    """Makes containers, runs them and takes them away."""

    async def create(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig, stage: StageTimer
    ) -> CreatedContainer:
        """Mount the root, write the bundle, run monitor and runtime's create. `record` is CREATING."""
        ...

    async def explain(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig
    ) -> ExplainedSpec:
        """The spec that `create` made, or would make now, and where its fields are from. Makes nothing."""
        ...

    def made_spec(self, record: ContainerRecord) -> bytes:
        """The OCI spec that it was made with, empty when that is gone."""
        ...

    async def start(self, record: ContainerRecord) -> None:
        """Returns when the container's program runs (execve(2) has happened), or has ended already."""
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
