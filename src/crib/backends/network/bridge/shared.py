"""What all pods of the built-in bridge share: the bridge, its rules, its ranges and its name server.

It is made when the first pod needs it, looked after by `readiness`, and stays when the daemon ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import ip_network
from typing import TypeVar

from crib.backends.failures import trying, why
from crib.backends.network.bridge import link as bridge_link
from crib.backends.network.bridge.addresses import (
    Address,
    AddressBook,
    Holding,
    Range,
    interfaces_of,
    parse_subnet,
    parse_subnet6,
)
from crib.backends.network.bridge.link import BridgeSpec
from crib.backends.network.bridge.names import BridgeNames
from crib.backends.network.bridge.rules import Rules, RuleSettings
from crib.backends.network.interfaces import NETLINK_SECONDS
from crib.backends.network.pod_ranges import FIELD, PodRanges, ranges_of
from crib.host import links
from crib.host.addresses import Interface
from crib.host.netlink import Netlink
from crib.host.threads import OURS, Job
from crib.model.errors import Broken, InvalidRequest
from crib.model.facts import Readiness
from crib.model.ids import SandboxId
from crib.model.settings import NetworkSettings

T = TypeVar("T")

_log = logging.getLogger(__name__)

POLICY_SECONDS = 60.0
"""For so long what the host's firewall does is believed: looking lists all of its chains."""


class SharedBridge:
    """The bridge and what goes with it. OSError when the kernel refuses."""

    def __init__(self, settings: NetworkSettings, addresses: AddressBook, state_dir: str) -> None:
        self.settings = settings
        self.rules = Rules(RuleSettings.of(settings))
        self.names = BridgeNames(settings.dns_domain, addresses)
        self.is_dismantled = False
        self._addresses = addresses
        self._told = PodRanges(state_dir)
        self._mtu = settings.mtu
        self._link: links.KernelLink | None = None
        self._preparing = asyncio.Lock()
        self._policy: tuple[float, str] | None = None
        self._use_told_ranges()

    @property
    def mtu(self) -> int:
        """Bytes; 0 before the bridge was made where the host's is to be taken."""
        return self._mtu

    @property
    def link(self) -> links.KernelLink | None:
        """The bridge, if it was made or found."""
        return self._link

    async def ready(self, *, verify: bool = False) -> links.KernelLink:
        """The bridge, made if it is missing; `verify` restores what somebody changed meanwhile."""
        if self._link is not None and not verify:
            return self._link
        async with self._preparing:
            if self._link is None:
                self._mtu = self._mtu or await self._ask(bridge_link.host_mtu)
                holdings = dict(self._addresses.all())
                link = await self._ask(partial(self._prepare, holdings, is_first=True))
                await self.rules.install(self._masqueraded(), self._addresses.all())
                self._link, self.is_dismantled = link, False
            elif verify:
                holdings = dict(self._addresses.all())
                self._link = await self._ask(partial(self._prepare, holdings, is_first=False))
                if await self.rules.restore_if_lost(self._masqueraded()):
                    _log.warning("nftables table %s was changed, and has been restored", self.rules.table)
            await self.names.serve()
            return self._link

    async def rules_at_hand(self) -> None:
        """What is given back needs no bridge: where it cannot be made the rules are taken as they are."""
        try:
            await self.ready()
        except OSError as error:
            _log.warning("bridge %s: %s", self.settings.bridge, why(error))
            await self.rules.adopt()

    async def readiness(self) -> Readiness:
        """Ready if bridge and rules are there; restores what somebody removed meanwhile."""
        name = self.settings.bridge
        if self.is_dismantled:
            return Readiness(ready=True, message=f"bridge {name} was removed: it is made with the next pod")
        try:
            await self.ready(verify=True)
            dropped_by = await self._dropped_by()
        except OSError as error:
            message = f"bridge {name}: {why(error)}"
            return Readiness(ready=False, reason="NetworkPluginNotReady", message=message)
        messages = [text for text in (self.names.problem, self.rules.senders.gap) if text]
        if dropped_by:
            text = f"pods on bridge {name} cannot reach beyond the host: {dropped_by} drops what is forwarded"
            messages.append(text)
        return Readiness(ready=True, message="; ".join(messages))

    async def problems(self) -> list[str]:
        """What is not as it was made, of what all pods need; but for the rules."""

        def look() -> list[str]:
            with Netlink() as netlink:
                return bridge_link.bridge_problems(netlink, self.spec())

        return await self._ask(look)

    async def configure(self, pod_cidr: str) -> None:
        """Hand out from what a kubelet told, and keep it for the next start. InvalidRequest, Broken."""
        told = ranges_of(pod_cidr)
        if not told:
            return
        before, ranges = self._addresses.ranges, self._chosen(told)
        if ranges != before:
            self._change_ranges(ranges)
            if not self.is_dismantled:
                try:
                    with trying(f"move bridge {self.settings.bridge} to {', '.join(map(str, ranges))}"):
                        await self.ready()
                except Broken:
                    self._change_ranges(before)
                    raise
        await self._told.remember(pod_cidr)

    async def dismantle(self) -> None:
        """Delete the bridge and its table of rules; the next pod makes them again."""
        async with self._preparing:
            self._link, self.is_dismantled = None, True
            await self.names.close()
            await self.rules.uninstall()
            await self._ask(partial(bridge_link.delete_links, [self.settings.bridge]))

    async def _ask(self, work: Callable[[], T]) -> T:
        bridge = f"bridge {self.settings.bridge}"
        return await OURS.run(Job(bridge, bridge, NETLINK_SECONDS), work)

    async def close(self) -> None:
        """End the name server, let nftables go; bridge and rules stay."""
        await self.names.close()
        await self.rules.close()

    def spec(self) -> BridgeSpec:
        """What the bridge must be now."""
        gateways = interfaces_of(self._addresses.gateways, self._addresses.ranges)
        return BridgeSpec(self.settings.bridge, self._mtu, gateways, self.settings.isolation == "pods")

    def interfaces_of(self, addresses: Sequence[Address]) -> tuple[Interface, ...]:
        """A pod's addresses with prefix lengths, without those of ranges that the bridge had before."""
        return interfaces_of(addresses, self._addresses.ranges)

    def gateways_of(self, addresses: Sequence[Address]) -> tuple[Address, ...]:
        """The bridge's own addresses in the ranges that these are in."""
        ranges = zip(self._addresses.ranges, self._addresses.gateways, strict=True)
        return tuple(
            gateway for network, gateway in ranges if any(address in network for address in addresses)
        )

    def _prepare(self, holdings: Mapping[SandboxId, Holding], *, is_first: bool) -> links.KernelLink:
        spec = self.spec()
        link = bridge_link.prepare_bridge(spec)
        if is_first or spec.isolated:
            bridge_link.align_ports(link, spec, holdings)
        bridge_link.ensure_neighbours(link, holdings)
        return link

    def _masqueraded(self) -> tuple[Range, ...]:
        """The ranges, and singly the addresses that pods still hold from earlier ones."""
        ranges = self._addresses.ranges
        outside: list[Range] = [
            ip_network(held)
            for held in self._addresses.held()
            if not any(held in network for network in ranges)
        ]
        return (*ranges, *outside)

    async def _dropped_by(self) -> str:
        now = time.monotonic()
        if self._policy is None or now - self._policy[0] > POLICY_SECONDS:
            self._policy = (now, await self.rules.dropped_by(self._addresses.ranges))
        return self._policy[1]

    def _use_told_ranges(self) -> None:
        if not self._told.ranges:
            return
        try:
            ranges = self._chosen(self._told.ranges)
        except InvalidRequest as error:
            _log.warning(
                "bridge %s: the pod ranges from the kubelet are unusable: %s", self.settings.bridge, error
            )
            return
        if ranges != self._addresses.ranges:
            self._change_ranges(ranges)

    def _change_ranges(self, ranges: tuple[Range, ...]) -> None:
        text = ", ".join(map(str, ranges))
        _log.info("bridge %s: pods get addresses from %s, which the kubelet sent", self.settings.bridge, text)
        self._addresses.change_ranges(ranges)
        self._link = None

    def _chosen(self, told: Sequence[str]) -> tuple[Range, ...]:
        """The first range of each family; IPv6's only if the settings have one, which stays if none came."""
        told4 = [text for text in told if ":" not in text]
        told6 = [text for text in told if ":" in text]
        if not told4:
            raise InvalidRequest(f"{', '.join(told)} holds no IPv4 range", field=FIELD)
        of_settings = [network for network in self._addresses.ranges if network.version == 6]
        try:
            subnet = parse_subnet(told4[0])
            if not of_settings:
                return (subnet,)
            return (subnet, parse_subnet6(told6[0]) if told6 else of_settings[0])
        except ValueError as error:
            raise InvalidRequest(str(error), field=FIELD) from error
