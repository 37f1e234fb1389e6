"""What a pod has of its own, before and beside its containers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

from crib.model.ids import SandboxId
from crib.model.sandbox import ProcessIdentity, SandboxRecord
from crib.ports.clocks import StageTimer


class PodRuntime(Protocol):
    """Makes pods and takes them away."""

    async def prepare(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        """Make pod files, pinned namespaces, sysctls, shm and cgroup; the infra process if pids are shared.
        Before anything is made, sysctls are checked: namespaced ones only, and never the host's.
        """
        ...

    async def stop(self, record: SandboxRecord) -> None:
        """End the infra process, unpin the namespaces, unmount shm."""
        ...

    async def remove(self, record: SandboxRecord) -> None:
        """`stop`, then the pod's files, and its cgroup if we made it."""
        ...

    def netns_path(self, record: SandboxRecord) -> str:
        """Where the pod's network namespace is pinned."""
        ...

    def made_spec(self, record: SandboxRecord) -> bytes:
        """The OCI spec that it was made with. Of a pod without a process of its own: one with its namespaces
        and nothing else. Only those are named that are there.
        """
        ...

    async def update(self, record: SandboxRecord) -> None:
        """Put the record's overhead and resources in force on the pod's cgroup, if that is ours.

        A cgroup that the client named (cgroup_parent) is the client's to limit.
        """
        ...

    async def alive(self, record: SandboxRecord) -> bool:
        """Whether the pod's namespaces, /dev/shm and infra process are there."""
        ...

    def losses(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        """Of those that `ready` gives, each that is no longer alive: at once, then as it happens; ends never.

        One may be told of again; that it was stopped meanwhile is the caller's to see.
        """
        ...
