"""What pods and containers use."""

from __future__ import annotations

from typing import Protocol

from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.model.stats import ContainerUsage, PodUsage


class Statistics(Protocol):
    """Reads it as it is now."""

    async def container(self, record: ContainerRecord, sandbox: SandboxRecord) -> ContainerUsage: ...

    async def pod(self, record: SandboxRecord) -> PodUsage:
        """Of the pod's cgroup; interfaces come from PodNetworks.usage."""
        ...
