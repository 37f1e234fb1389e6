"""The port `PodNetworks` in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Network

from crib.model.errors import Exhausted, InvalidRequest
from crib.model.facts import Readiness
from crib.model.ids import SandboxId
from crib.model.network import ForwardView, InterfaceView, NetworkInfo, PodNetworkView, RouteView
from crib.model.sandbox import DnsConfig, NetworkAttachment
from crib.model.settings import Settings
from crib.model.stats import InterfaceUsage, NetworkUsage
from crib.model.tallies import Operations
from crib.ports.clocks import StageTimer
from crib.ports.networks import PodNetwork
from tests.fakes.failpoints import Failpoints

_FIELD = "pod_cidr"
NAME = "fake0"


class FakeNetworks:
    """Addresses of a small range. Failpoints: the methods' names."""

    def __init__(self, subnet: str = "10.1.0.0/24", shared: str = "") -> None:
        self.failpoints = Failpoints()
        self.shared = shared
        self.programs = Operations()
        self.subnet = IPv4Network(subnet)
        self.held: dict[SandboxId, str] = {}
        self.problems: dict[SandboxId, str] = {}
        """What checks find, until it is repaired."""
        self.resumed: dict[SandboxId, NetworkAttachment] = {}
        """What is found to be new after a restart."""
        self.told_resolver: DnsConfig | None = None
        self.last_told: PodNetwork | None = None
        self.dismantled = False
        self.closed = False
        self.adapted: Settings | None = None
        """What a reload gave last."""
        self._live: set[SandboxId] = set()

    def adapt(self, settings: Settings) -> None:
        self.adapted = settings

    def restarted(self) -> FakeNetworks:
        """As the next process finds it: what this one attached is known no longer for that."""
        self._live.clear()
        return self

    async def attach(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        with stage("network", "address"):
            self.last_told = pod
            self._live.add(pod.id)
            address = self.held.get(pod.id) or self._free_address()
            # As a real plugin: what is held when it fails is given back by detach, not by attach.
            self.held[pod.id] = address
            await self.failpoints.reach("attach", pod.id)
        return NetworkAttachment(addresses=(address,), interface="eth0")

    def _free_address(self) -> str:
        taken = set(self.held.values())
        for host in list(self.subnet.hosts())[1:]:
            if str(host) not in taken:
                return str(host)
        raise Exhausted(f"no address of {self.subnet} is free")

    async def resume(self, pod: PodNetwork) -> NetworkAttachment | None:
        await self.failpoints.reach("resume", pod.id)
        return self.resumed.get(pod.id)

    async def detach(self, pod: PodNetwork) -> None:
        await self.failpoints.reach("detach", pod.id)
        self.held.pop(pod.id, None)
        self.problems.pop(pod.id, None)
        self._live.discard(pod.id)

    async def check(self, pod: PodNetwork) -> str:
        await self.failpoints.reach("check", pod.id)
        if pod.id not in self.held:
            return "it holds no address"
        return self.problems.get(pod.id, "")

    async def repair(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        with stage("network", "repair"):
            await self.failpoints.reach("repair", pod.id)
        self.problems.pop(pod.id, None)
        return await self.attach(pod, stage)

    async def readiness(self) -> Readiness:
        await self.failpoints.reach("readiness")
        return Readiness(ready=True)

    async def configure(self, pod_cidr: str) -> None:
        await self.failpoints.reach("configure", pod_cidr)
        ranges = [part.strip() for part in pod_cidr.split(",") if part.strip()]
        if not ranges:
            return
        try:
            self.subnet = IPv4Network(next((part for part in ranges if ":" not in part), "none"))
        except ValueError as error:
            raise InvalidRequest(str(error), field=_FIELD) from error

    async def networks(self) -> Sequence[NetworkInfo]:
        await self.failpoints.reach("networks")
        return (NetworkInfo(NAME, "fake", "settings", "eth0", len(self.held), subnets=(str(self.subnet),)),)

    async def view(self, pod: PodNetwork) -> PodNetworkView:
        await self.failpoints.reach("view", pod.id)
        if pod.id not in self.held:
            return PodNetworkView()
        address = f"{self.held[pod.id]}/{self.subnet.prefixlen}"
        return PodNetworkView(
            networks=(NAME,),
            network_interfaces=("eth0",),
            interfaces=(InterfaceView("eth0", "02:00:00:00:00:01", 1500, up=True, addresses=(address,)),),
            routes=(RouteView("default", str(next(self.subnet.hosts())), "eth0"),),
            forwards=tuple(
                ForwardView(
                    port.protocol.name.lower(), port.host_ip or "*", port.host_port, port.container_port
                )
                for port in pod.port_mappings
                if port.host_port
            ),
        )

    def resolver(self, namespace: str) -> DnsConfig | None:
        return self.told_resolver

    async def usage(self, pods: Sequence[PodNetwork]) -> Mapping[SandboxId, NetworkUsage]:
        await self.failpoints.reach("usage")
        eth0 = InterfaceUsage("eth0", 100, 0, 200, 0)
        return {pod.id: NetworkUsage(7, (eth0,)) for pod in pods if pod.id in self.held}

    async def sweep(
        self, known: Collection[SandboxId], *, everything: bool = False, dry: bool = False
    ) -> Sequence[str]:
        await self.failpoints.reach("sweep")
        stale = [pod for pod in self.held if pod not in known and pod not in self._live]
        if dry:
            return [f"address {self.held[pod]} of pod {pod}" for pod in stale]
        return [f"address {self.held.pop(pod)} of pod {pod}" for pod in stale]

    async def dismantle(self) -> None:
        await self.failpoints.reach("dismantle")
        self.dismantled = True

    async def close(self) -> None:
        await self.failpoints.reach("close")
        self.closed = True
