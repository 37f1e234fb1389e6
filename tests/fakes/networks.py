"""The port `PodNetworks` in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Network

from crib.model.errors import Exhausted, InvalidRequest
from crib.model.facts import Readiness
from crib.model.ids import SandboxId
from crib.model.sandbox import NetworkAttachment
from crib.model.stats import InterfaceUsage
from crib.ports import PodNetwork, StageTimer
from tests.fakes.failpoints import Failpoints

_FIELD = "runtime_config.network_config.pod_cidr"


class FakeNetworks:
    """Addresses of a small range. Failpoints: attach, detach, readiness, usage, sweep, configure."""

    def __init__(self, subnet: str = "10.1.0.0/24") -> None:
        self.failpoints = Failpoints()
        self.subnet = IPv4Network(subnet)
        self.held: dict[SandboxId, str] = {}
        self.last_told: PodNetwork | None = None
        self.dismantled = False
        self.closed = False

    async def attach(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        with stage("network", "address"):
            self.last_told = pod
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

    async def detach(self, pod: PodNetwork) -> None:
        await self.failpoints.reach("detach", pod.id)
        self.held.pop(pod.id, None)

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

    async def usage(self, pod: PodNetwork) -> Sequence[InterfaceUsage]:
        await self.failpoints.reach("usage", pod.id)
        return (InterfaceUsage("eth0", 100, 0, 200, 0),) if pod.id in self.held else ()

    async def sweep(self, known: Collection[SandboxId]) -> Sequence[str]:
        await self.failpoints.reach("sweep")
        stale = [pod for pod in self.held if pod not in known]
        return [f"address {self.held.pop(pod)} of pod {pod}" for pod in stale]

    async def dismantle(self) -> None:
        await self.failpoints.reach("dismantle")
        self.dismantled = True

    async def close(self) -> None:
        await self.failpoints.reach("close")
        self.closed = True
