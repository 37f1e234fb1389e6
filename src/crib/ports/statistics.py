"""What pods and containers use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.model.stats import CgroupUsage, ContainerUsage


class Statistics(Protocol):
    """Reads it as it is now: many at once, in one job off the loop.

    What cannot be read is absent, and so is everything of one that has gone meanwhile. `whole` reads also the
    parts that the model calls so.
    """

    async def containers(
        self, asked: Sequence[tuple[ContainerRecord, SandboxRecord]], *, whole: bool = False
    ) -> Sequence[ContainerUsage]:
        """In the order in which they were asked for."""
        ...

    async def pods(self, asked: Sequence[SandboxRecord], *, whole: bool = False) -> Sequence[CgroupUsage]:
        """In that order too. Of their cgroups: networks are told by PodNetworks.usage."""
        ...
