"""The files that containers' output goes to (CRI log format)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from crib.model.container import ContainerRecord
from crib.model.ids import ContainerId
from crib.model.sandbox import SandboxRecord


class ContainerLogs(Protocol):
    """Keeps the logs of containers."""

    async def reopen(self, record: ContainerRecord) -> None:
        """Returns once the new file is in place. A container without a log has nothing to do."""
        ...

    async def rotate(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        """Set the log aside if it has more than `size_max` bytes, and keep `files` in all; whether it had."""
        ...

    async def sizes(self, records: Sequence[ContainerRecord]) -> Mapping[ContainerId, int]:
        """Bytes that the logs of one pod's containers take, with those set aside.

        Without those that do not tell in time.
        """
        ...

    async def odd(
        self, sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
    ) -> Sequence[tuple[str, str]]:
        """Paths of logs that belong to no container, or that are missing, each with what is wrong."""
        ...
