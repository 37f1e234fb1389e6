"""What a pod has of its own, without its containers.

A pod is prepared, then its network is attached, then it is started. So the network has a namespace, and what
starts finds its network complete (a virtual machine gets its interfaces when it boots).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

from crib.model.ids import SandboxId
from crib.model.sandbox import ProcessIdentity, SandboxRecord
from crib.ports.clocks import StageTimer


class PodRuntime(Protocol):
    """Makes and removes pods."""

    async def prepare(self, record: SandboxRecord, stage: StageTimer) -> None:
        """Make what a network and containers need to be there: pod files, pinned namespaces, sysctls, shm and
        cgroup. Before anything is made, sysctls are checked: namespaced ones only, and never the host's.
        """
        ...

    async def start(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        """Start what of a prepared pod runs, now that its network is there; containers may come from then on.

        The process of this host that the pod cannot do without (the infra process if pids are shared, a
        monitor of a virtual machine); None where there is none.
        """
        ...

    async def stop(self, record: SandboxRecord) -> None:
        """End what `start` has started, if it has; unpin the namespaces, unmount shm."""
        ...

    async def remove(self, record: SandboxRecord) -> None:
        """`stop`, then the pod's files, and its cgroup if we made it."""
        ...

    def netns_path(self, record: SandboxRecord) -> str:
        """Where the pod's network namespace is pinned."""
        ...

    def made_spec(self, record: SandboxRecord) -> bytes:
        """The OCI spec that it was made with. A pod without a process of its own has one that names only its
        existing namespaces.
        """
        ...

    async def update(self, record: SandboxRecord) -> None:
        """Put the record's overhead and resources in force on the pod's cgroup, if that is ours.

        A cgroup that the client named (cgroup_parent) is the client's to limit.
        """
        ...

    async def alive(self, record: SandboxRecord) -> bool:
        """Whether what was prepared and started is there: namespaces, /dev/shm, infra process."""
        ...

    def losses(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        """Of the pods that `ready` gives, each that is no longer alive: at once, then as it happens. Never
        ends.

        A pod may be reported again. The caller finds out whether it was stopped meanwhile.
        """
        ...
