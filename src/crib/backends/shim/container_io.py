"""What the lives of containers need of those who carry their bytes."""

from __future__ import annotations

from typing import Protocol

from crib.backends.shim.nouns import Stdio
from crib.backends.shim.tasks import TaskService
from crib.model.container import ContainerRecord
from crib.model.ids import ContainerId


class TaskServices(Protocol):
    """Finds the shim of a container."""

    async def of(self, container: ContainerId) -> TaskService:
        """The task service that knows this container. Unavailable when its shim is gone."""
        ...


class ContainerIo(Protocol):
    """Reads the output of first processes, and writes their logs. All of it is bounded in time."""

    async def prepare(self, record: ContainerRecord) -> Stdio:
        """Make the fifos and open our ends; the log begins. The bundle is there, the task is not."""
        ...

    async def adopt(self, record: ContainerRecord) -> None:
        """Open our ends again, of a container that an earlier daemon made. Safe to repeat."""
        ...

    async def drain(self, container: ContainerId) -> None:
        """The first process has ended: returns when what it wrote is in the log, or after a bound."""
        ...

    async def release(self, container: ContainerId) -> None:
        """Let go of all ends and of the log; the bundle is about to be removed. Safe to repeat."""
        ...
