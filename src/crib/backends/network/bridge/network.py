"""The built-in pod network: one bridge, IPv4 and IPv6, no program started and nothing needed on disk.

A pod gets one veth pair, addresses from `AddressBook`, default routes and, if it asked, ports of the host and
limits of bandwidth. Detaching never deletes the link (27 ms): the pod's namespace is unpinned by its handler
and the kernel removes both ends; one that outlives this goes with the next sweep. Everything in the kernel is
derived from settings and the pod's id, so nothing but the addresses is on record.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from crib.backends.failures import trying, why
from crib.backends.network.bridge import bandwidth
from crib.backends.network.bridge import link as bridge_link
from crib.backends.network.bridge.addresses import Address, AddressBook, Holding, wish_of
from crib.backends.network.bridge.check import Expected, is_half_made, link_problems
from crib.backends.network.bridge.host_ports import forwards_of, views
from crib.backends.network.bridge.link import LINK_PREFIX, PodLink, host_link_name
from crib.backends.network.bridge.senders import sender_of
from crib.backends.network.bridge.shared import SharedBridge
from crib.backends.network.counters import PodCounters
from crib.backends.network.interfaces import (
    NETLINK_SECONDS,
    POD_INTERFACE,
    inside,
    pod_interfaces,
)
from crib.backends.network.runtime_config import (
    ALIASES_ANNOTATION,
    Bandwidth,
    bandwidth_of,
    field_of,
    wishes_of,
)
from crib.host import links
from crib.host.netlink import Netlink
from crib.host.threads import OURS, Job
from crib.host.veth import PodInterface
from crib.model.errors import InvalidRequest
from crib.model.facts import Readiness
from crib.model.ids import SandboxId
from crib.model.network import NetworkInfo, PodNetworkView
from crib.model.sandbox import DnsConfig, NetworkAttachment
from crib.model.settings import NetworkSettings, Settings
from crib.model.stats import NetworkUsage
from crib.model.tallies import Operations
from crib.ports.clocks import StageTimer, Untimed
from crib.ports.networks import PodNetwork

T = TypeVar("T")

_log = logging.getLogger(__name__)

LINGER_SECONDS = 1.0
"""How long the kernel is given to remove a detached pod's link before a sweep does it."""


class BridgeNetwork:
    """`ports.PodNetworks` with nothing but netlink and nftables."""

    def __init__(self, settings: NetworkSettings, addresses: AddressBook, state_dir: str) -> None:
        """`state_dir` outlives a reboot."""
        self._name = links.check_interface_name(settings.bridge)
        self._addresses = addresses
        self._shared = SharedBridge(settings, addresses, state_dir)
        self.programs = Operations()
        self._live: set[SandboxId] = set()
        self._detached: dict[str, float] = {}
        self._counters = PodCounters()

    @property
    def shared(self) -> str:
        """The bridge and its table of rules."""
        return f"bridge {self._name} and its rules"

    def adapt(self, settings: Settings) -> None:
        """Of a bridge little can change: its rules and its range stay as they were made."""
        self._shared.settings = settings.network

    async def attach(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """Give the pod interface, addresses, routes, host ports, limits; a failure is undone by `detach`."""
        self._live.add(pod.id)
        self._counters.attached(pod.id)
        with trying(f"attach pod {pod.id} to bridge {self._name}"):
            bridge = await self._shared.ready()
            try:
                return await self._give(pod, stage, bridge)
            except OSError as error:
                # Somebody may have taken bridge or rules away: without a kubelet nobody asks for Status.
                _log.warning("pod %s: tried again with bridge and rules looked after: %s", pod.id, error)
                bridge = await self._shared.ready(verify=True)
                await _inside(pod, lambda: bridge_link.unmake_pod_link(pod.id, pod.netns))
                return await self._give(pod, stage, bridge)

    async def resume(self, pod: PodNetwork) -> NetworkAttachment | None:
        """Lead its host ports to a pod again that an earlier daemon attached, if they were lost meanwhile.

        What an earlier daemon did not do yet is done: the pod learns its gateways' MAC. A repair that was
        interrupted is done again, with the same addresses.
        """
        holding = self._addresses.holding(pod.id)
        if holding is None:
            return None
        self._counters.attached(pod.id)
        with trying(f"resume pod {pod.id} on bridge {self._name}"):
            bridge = await self._shared.ready()
            forwards = forwards_of(pod.port_mappings, holding.addresses)
            await self._shared.rules.add(forwards, self._addresses.describe)
            gateways = self._shared.gateways_of(holding.addresses)

            def look(hosts: Netlink, pods: Netlink) -> bool:
                if is_half_made(hosts, pods, host_link_name(pod.id)):
                    return True
                bridge_link.ensure_gateways(pods, gateways, bridge.mac)
                return False

            half_made = not pod.inside and await inside(pod, look)
            limits = await _ask(pod.id, "limits", _bandwidth_problems, pod)
        if not (half_made or limits):
            return None
        _log.warning("pod %s: its network is half-made, and is repaired", pod.id)
        return await self.repair(pod, Untimed())

    async def detach(self, pod: PodNetwork) -> None:
        """Give back host ports and addresses; the link goes with the pod's namespace."""
        self._counters.detached(pod.id)
        holding = self._addresses.holding(pod.id)
        if holding is not None:
            with trying(f"detach pod {pod.id} from bridge {self._name}"):
                await self._shared.rules_at_hand()
                # Before the address: without one this is not done again.
                if bandwidth_of(pod.annotations).egress:
                    await _ask(pod.id, "limits", bandwidth.release, host_link_name(pod.id))
                await self._let_go(pod.id, holding)
            self._forget_detached()
            self._detached[host_link_name(pod.id)] = time.monotonic()
        self._live.discard(pod.id)

    async def check(self, pod: PodNetwork) -> str:
        """Whatever of pair, addresses, routes, host ports, limits, bridge and rules is not as it was made."""
        holding = self._addresses.holding(pod.id)
        if holding is None:
            return "it holds no address"
        problems = await self._link_problems(pod, holding)
        with trying(f"check pod {pod.id} on bridge {self._name}"):
            problems += await self._shared.problems()
            wanted = forwards_of(pod.port_mappings, holding.addresses)
            problems += await self._shared.rules.problems(sender_of(pod.id, holding), wanted)
            problems += await _ask(pod.id, "limits", _bandwidth_problems, pod)
        return "; ".join(problems)

    async def repair(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """Repair what `check` finds; the pair is made again if anything is wrong with it.

        A pod whose addresses are of ranges that are no longer the bridge's gets new ones.
        """
        self._live.add(pod.id)
        with trying(f"repair pod {pod.id} on bridge {self._name}"):
            bridge = await self._shared.ready(verify=True)
            holding = self._addresses.holding(pod.id)
            if holding is not None and len(self._shared.interfaces_of(holding.addresses)) < len(
                holding.addresses
            ):
                await self._let_go(pod.id, holding)
                holding = None
            keep_link = holding is not None and not await self._link_problems(pod, holding)
            if not keep_link:
                await _inside(pod, lambda: bridge_link.unmake_pod_link(pod.id, pod.netns))
            return await self._give(pod, stage, bridge, keep_link=keep_link)

    async def readiness(self) -> Readiness:
        """Ready if bridge and rules are there; restores what somebody removed meanwhile."""
        return await self._shared.readiness()

    async def configure(self, pod_cidr: str) -> None:
        """Hand out from the first range of each family in `pod_cidr`; pods that run keep what they have.

        IPv6 is taken only where the settings ask for it. What the kubelet sent is kept for the next start.
        """
        await self._shared.configure(pod_cidr)

    async def networks(self) -> Sequence[NetworkInfo]:
        """The bridge."""
        readiness = await self.readiness()
        return (
            NetworkInfo(
                name=self._name,
                kind="bridge",
                source="settings",
                interface=POD_INTERFACE,
                attached=len(self._addresses.all()),
                subnets=tuple(map(str, self._addresses.ranges)),
                gateways=tuple(map(str, self._addresses.gateways)),
                mtu=self._shared.mtu,
                problem="" if self._shared.is_dismantled else readiness.message,
            ),
        )

    async def view(self, pod: PodNetwork) -> PodNetworkView:
        """The pod's network in the kernel; without interfaces once its namespace is gone."""
        holding = self._addresses.holding(pod.id)
        if holding is None:
            return PodNetworkView()
        interfaces, routes = await pod_interfaces(pod)
        with trying(f"look at pod {pod.id} on bridge {self._name}"):
            present = await self._shared.rules.in_kernel()
        forwards = {key: to for key, to in present.items() if to.address in holding.addresses}
        try:
            limits = await _ask(pod.id, "limits", bandwidth.read, host_link_name(pod.id))
        except OSError:
            limits = Bandwidth()
        return PodNetworkView(
            networks=(self._name,),
            network_interfaces=(POD_INTERFACE,),
            interfaces=interfaces,
            routes=routes,
            forwards=views(forwards),
            ingress_rate=limits.ingress,
            egress_rate=limits.egress,
        )

    def resolver(self, namespace: str) -> DnsConfig | None:
        """The bridge's own name server, if there is one, with the namespace's domain first."""
        return self._shared.names.resolver(namespace)

    async def usage(self, pods: Sequence[PodNetwork]) -> Mapping[SandboxId, NetworkUsage]:
        """Counters of the pods' interfaces; nothing of one whose namespace is gone."""
        return await self._counters.usage(pods)

    async def sweep(
        self, known: Collection[SandboxId], *, everything: bool = False, dry: bool = False
    ) -> Sequence[str]:
        """Release what pods hold that are not known, and links and rules that belong to no holder.

        Nobody else uses the bridge, so this is always everything. Known besides is what was attached since
        this process began, or is just being.
        """
        del everything
        released: list[str] = []
        with trying(f"sweep bridge {self._name}"):
            if not (dry or self._shared.is_dismantled):
                await self._shared.rules_at_hand()
            for pod, holding in list(self._addresses.all().items()):
                if pod not in known and pod not in self._live:
                    if not dry:
                        await self._let_go(pod, holding)
                    released.extend(f"address {address} of pod {pod}" for address in holding.addresses)
            held = self._addresses.held()
            stray = await (self._shared.rules.beyond(held) if dry else self._shared.rules.remove_but(held))
            released.extend(f"host port {key}" for key in stray)
            if (bridge := self._shared.link) is not None:
                found = await _ask(self._name, "ports", bridge_link.pod_ports, bridge)
                # Pods reserve addresses before their links are made: of these the holder is known by now.
                self._forget_detached()
                keep = {*map(host_link_name, self._addresses.all()), *self._detached}
                names = [name for name in found if name not in keep]
                gone = names if dry else await _ask(self._name, "left-over links", _delete_leftovers, names)
                released.extend(f"interface {name}" for name in gone)
        return released

    async def dismantle(self) -> None:
        """Delete the bridge and its table of rules; the next pod makes them again."""
        with trying(f"remove bridge {self._name}"):
            await self._shared.dismantle()

    async def close(self) -> None:
        """End the name server, let nftables go; bridge, rules and pods stay."""
        await self._shared.close()

    async def _give(
        self, pod: PodNetwork, stage: StageTimer, bridge: links.KernelLink, *, keep_link: bool = False
    ) -> NetworkAttachment:
        limits = bandwidth_of(pod.annotations)
        wishes = wishes_of(pod.annotations)
        if "aliases" in wishes:
            raise InvalidRequest("the built-in bridge knows no aliases", field=field_of(ALIASES_ANNOTATION))
        with stage("network", "address"):
            owner = f"{pod.metadata.namespace}/{pod.metadata.name}"
            holding = self._addresses.reserve(pod.id, owner, wish_of(wishes))
        # Before anything waits: the ranges may be changed meanwhile.
        gateways = self._shared.gateways_of(holding.addresses)
        interface = PodInterface(POD_INTERFACE, self._shared.interfaces_of(holding.addresses), gateways)
        forwards = forwards_of(pod.port_mappings, holding.addresses)
        if forwards:
            with stage("network", "host ports"):
                await self._shared.rules.add(forwards, self._addresses.describe)
        sender, senders = sender_of(pod.id, holding), self._shared.rules.senders
        if keep_link:
            await _ask(pod.id, "sender", senders.admit, sender)
        else:
            link, spec = PodLink(pod.id, pod.netns, holding, interface), self._shared.spec()

            gone = threading.Event()

            def make() -> None:
                senders.admit(sender)
                bridge_link.make_pod_link(link, bridge, spec)
                if gone.is_set():  # the address may be another's by now; the link goes with the namespace
                    senders.dismiss(sender)

            with stage("network", "veth"):
                await _inside(pod, make, gone.set)
        if limits != Bandwidth():
            with stage("network", "bandwidth"):
                await _ask(pod.id, "limits", bandwidth.apply, host_link_name(pod.id), limits)
        return NetworkAttachment(
            addresses=tuple(map(str, self._in_preferred_order(holding.addresses))),
            interface=POD_INTERFACE,
            details={
                "bridge": self._name,
                "host_interface": host_link_name(pod.id),
                "mac": holding.link_mac,
                "gateway": ",".join(map(str, gateways)),
            },
        )

    def _in_preferred_order(self, addresses: Sequence[Address]) -> Sequence[Address]:
        is_six_first = self._shared.settings.ip_preference == "ipv6"
        return addresses[::-1] if is_six_first else addresses

    async def _let_go(self, pod: SandboxId, holding: Holding) -> None:
        await self._shared.rules.remove(holding.addresses)

        def forget() -> None:
            self._shared.rules.senders.dismiss(sender_of(pod, holding))
            if self._shared.link is not None:  # what was known went with the bridge
                bridge_link.forget_pod(self._shared.link, holding.addresses)

        await _ask(pod, "sender and neighbours", forget)
        self._addresses.release(pod)

    async def _link_problems(self, pod: PodNetwork, holding: Holding) -> list[str]:
        expected = Expected(
            host_link=host_link_name(pod.id),
            bridge=self._shared.spec(),
            holding=holding,
            gateways=self._shared.gateways_of(holding.addresses),
        )
        try:
            return await inside(pod, lambda hosts, pods: link_problems(hosts, pods, expected))
        except OSError as error:
            return [f"its network cannot be inspected: {why(error)}"]

    def _forget_detached(self) -> None:
        now = time.monotonic()
        self._detached = {name: at for name, at in self._detached.items() if now - at < LINGER_SECONDS}


async def _ask(owner: str, what: str, work: Callable[..., T], *args: object) -> T:
    return await OURS.run(Job(f"network of {owner}: {what}", owner, NETLINK_SECONDS), work, *args)


async def _inside(pod: PodNetwork, work: Callable[[], T], stop: Callable[[], None] = lambda: None) -> T:
    what = f"network of {pod.id}: link in {pod.netns}"
    return await OURS.run(Job(what, pod.id, NETLINK_SECONDS, stop, spends_thread=True), work)


def _bandwidth_problems(pod: PodNetwork) -> list[str]:
    wanted = bandwidth_of(pod.annotations)
    if wanted == Bandwidth():
        return []
    try:
        found = bandwidth.read(host_link_name(pod.id))
    except OSError as error:
        return [f"its limits cannot be read: {why(error)}"]
    problems: list[str] = []
    for what, limit, rate in (
        ("receives", wanted.ingress, found.ingress),
        ("sends", wanted.egress, found.egress),
    ):
        if limit // 8 != rate // 8:
            problems.append(f"it {what} at {rate or 'any'} instead of {limit} bits per second")
    return problems


def _delete_leftovers(names: Sequence[str]) -> list[str]:
    gone = bridge_link.delete_links(names)
    # Only now are those orphans whose pair has just been deleted.
    return [*gone, *bridge_link.delete_links(bandwidth.orphans(LINK_PREFIX))]
