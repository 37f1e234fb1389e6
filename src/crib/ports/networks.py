"""What gives pods a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from crib.model.facts import Readiness
from crib.model.ids import SandboxId
from crib.model.network import NetworkInfo, PodNetworkView
from crib.model.sandbox import DnsConfig, NetworkAttachment, PodMetadata, PortMapping
from crib.model.settings import Settings
from crib.model.stats import NetworkUsage
from crib.model.tallies import Operations
from crib.ports.clocks import StageTimer


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """What a network needs to know of a pod."""

    id: SandboxId
    metadata: PodMetadata
    netns: str
    """Path of the pinned namespace; it may be gone already when detaching."""
    port_mappings: tuple[PortMapping, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    cgroup_parent: str = ""
    inside: bool = False
    """A kernel of the pod's own has taken its addresses off the interface: not all that was made is there."""
    conf_dir: str = ""
    """Where the CNI configuration of the pod's handler is; empty: where that of the node is."""


class PodNetworks(Protocol):
    """Attaches pods to their network: the built-in bridge, or CNI."""

    @property
    def shared(self) -> str:
        """What it keeps on the host for all pods, in words: `readiness` looks after it, `dismantle` removes
        it. Empty: nothing of ours.
        """
        ...

    @property
    def programs(self) -> Operations:
        """What it had programs do, by their names and commands; nothing where it needs none."""
        ...

    async def attach(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """Waits, within bounds, for a network that is just coming up. What fails is undone by `detach`."""
        ...

    async def resume(self, pod: PodNetwork) -> NetworkAttachment | None:
        """Put back what was lost, while no daemon ran, of an attached pod; what it has now if that is new."""
        ...

    async def detach(self, pod: PodNetwork) -> None:
        """Give back addresses, ports and interfaces. Safe when nothing or only half was attached."""
        ...

    async def check(self, pod: PodNetwork) -> str:
        """What differs from what `attach` made; empty if nothing does, or the network cannot find out."""
        ...

    async def repair(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """Make an attached pod's network anew in its namespace, with the same addresses if possible."""
        ...

    async def readiness(self) -> Readiness: ...

    async def configure(self, pod_cidr: str) -> None:
        """CRI UpdateRuntimeConfig: the node's pod range is now known, and remembered from now on."""
        ...

    async def networks(self) -> Sequence[NetworkInfo]:
        """The networks of this node; those that pods are attached to come first."""
        ...

    async def view(self, pod: PodNetwork) -> PodNetworkView:
        """The pod's network as the kernel has it now."""
        ...

    def resolver(self, namespace: str) -> DnsConfig | None:
        """What the network wants pods of a namespace to ask for names first; None: nothing."""
        ...

    async def usage(self, pods: Sequence[PodNetwork]) -> Mapping[SandboxId, NetworkUsage]:
        """What has passed their interfaces, in one job off the loop; nothing of one without a namespace."""
        ...

    async def sweep(
        self, known: Collection[SandboxId], *, everything: bool = False, dry: bool = False
    ) -> Sequence[str]:
        """Release what is held for pods that are not known; says what was, or with `dry` would be, released.

        Where a network is shared with other runtimes, only what is certainly ours or left from before the
        boot goes, unless `everything` was asked for.
        """
        ...

    async def dismantle(self) -> None:
        """Remove what all pods share (bridge, rules). Called when there is no pod left, by a wipe."""
        ...

    def adapt(self, settings: Settings) -> None:
        """Go by other settings from now on; they differ in what is LIVE only."""
        ...

    async def close(self) -> None: ...
