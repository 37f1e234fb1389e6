"""The built-in pod network: one bridge, IPv4, no program started and nothing needed on disk.

A pod gets one veth pair, an address from `AddressBook`, a default route and, if it asked, ports of the
host. Detaching never deletes the link (27 ms): the pod's namespace is unpinned by its handler and the
kernel removes both ends; one that outlives this goes with the next sweep. Everything in the kernel is
derived from the pod's id, so nothing but the address is on record.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from crib.backends.network.addresses import AddressBook, parse_subnet
from crib.backends.network.host_ports import HostPorts, forwards_of
from crib.backends.network.interfaces import POD_INTERFACE, interface_usage
from crib.backends.network.runtime_config import EGRESS_ANNOTATION, INGRESS_ANNOTATION
from crib.host import links
from crib.host.namespaces import enter
from crib.host.netlink import Netlink
from crib.host.threads import on_own_thread_async
from crib.model.errors import Broken, InvalidRequest
from crib.model.facts import Readiness
from crib.model.ids import SandboxId
from crib.model.sandbox import NetworkAttachment
from crib.model.stats import InterfaceUsage
from crib.ports import PodNetwork, StageTimer

_log = logging.getLogger(__name__)

DEFAULT_MTU: Final = 1500
LINGER_SECONDS: Final = 1.0
"""How long the kernel is given to remove a detached pod's link before a sweep does it."""
_LINK_PREFIX: Final = "crib"
_UNSUPPORTED: Final = (INGRESS_ANNOTATION, EGRESS_ANNOTATION)


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """`name` at most 15 bytes; `mtu` in bytes, 0 for the default; `table` is the nftables table's name."""

    name: str
    mtu: int = 0
    table: str = "crib"


def host_link_name(pod: SandboxId) -> str:
    """The host end of a pod's veth pair: derived, so that no record is needed to find it."""
    return _LINK_PREFIX + hashlib.sha256(pod.encode()).hexdigest()[: links.INTERFACE_NAME_BYTES - 4]


def mac_of(address: IPv4Address) -> str:
    """A locally administered MAC derived from an address: a remembered ARP entry is never wrong."""
    return (b"\xc2\x1b" + address.packed).hex(":")


@contextmanager
def _as_broken(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        subject = f" ({error.filename})" if error.filename else ""
        raise Broken(f"{what}: {error.strerror or error}{subject}") from error


class BridgeNetwork:
    """`ports.PodNetworks` by netlink and nftables alone."""

    def __init__(self, settings: BridgeSettings, addresses: AddressBook) -> None:
        links.check_interface_name(settings.name)
        self._settings = settings
        self._addresses = addresses
        self._ports = HostPorts(settings.table, settings.name)
        self._mtu = settings.mtu or DEFAULT_MTU
        self._bridge: links.Link | None = None
        self._preparing = asyncio.Lock()
        self._detached: dict[str, float] = {}

    async def attach(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """Give the pod its interface, address, route and host ports; a failure is undone by `detach`."""
        with _as_broken(f"attach pod {pod.id} to bridge {self._settings.name}"):
            bridge = await self._ready_bridge()
            if any(name in _UNSUPPORTED for name, _ in pod.annotations):
                _log.warning("pod %s: bandwidth limits need network.mode cni; not applied", pod.id)
            with stage("network", "address"):
                address = self._addresses.reserve(pod.id)
            forwards = forwards_of(pod.port_mappings, address)
            if forwards:
                with stage("network", "host ports"):
                    await self._ports.add(forwards)
            own = IPv4Interface((address, self._addresses.subnet.prefixlen))
            interface = links.PodInterface(POD_INTERFACE, own, self._addresses.gateway)
            with stage("network", "veth"):
                await on_own_thread_async(lambda: self._make_interface(pod, interface, bridge))
        return NetworkAttachment(
            addresses=(str(address),),
            interface=POD_INTERFACE,
            details={
                "bridge": self._settings.name,
                "host_interface": host_link_name(pod.id),
                "mac": mac_of(address),
                "gateway": str(interface.gateway),
            },
        )

    async def detach(self, pod: PodNetwork) -> None:
        """Give back host ports and address; the link goes with the pod's namespace."""
        address = self._addresses.address_of(pod.id)
        if address is None:
            return
        with _as_broken(f"detach pod {pod.id} from bridge {self._settings.name}"):
            await self._ready_bridge()
            await self._ports.remove(address)
            self._addresses.release(pod.id)
        self._forget_detached()
        self._detached[host_link_name(pod.id)] = time.monotonic()

    async def readiness(self) -> Readiness:
        """Ready if bridge and rules are there; what somebody removed meanwhile is put back."""
        try:
            await self._ready_bridge(verify=True)
        except OSError as error:
            message = f"bridge {self._settings.name}: {error.strerror or error} ({error.filename})"
            return Readiness(ready=False, reason="NetworkPluginNotReady", message=message)
        return Readiness(ready=True)

    async def configure(self, pod_cidr: str) -> None:
        """Hand out from the first IPv4 range of `pod_cidr`; pods that run keep what they have."""
        candidates = [part.strip() for part in pod_cidr.split(",") if part.strip()]
        ranges = [part for part in candidates if ":" not in part]
        if not candidates:
            return
        if not ranges:
            raise InvalidRequest(
                f"{pod_cidr!r} holds no IPv4 range", field="runtime_config.network_config.pod_cidr"
            )
        try:
            subnet = parse_subnet(ranges[0])
        except ValueError as error:
            raise InvalidRequest(str(error), field="runtime_config.network_config.pod_cidr") from error
        if subnet == self._addresses.subnet:
            return
        _log.info("bridge %s: pods get addresses from %s now", self._settings.name, subnet)
        self._addresses.change_subnet(subnet)
        self._bridge = None
        with _as_broken(f"move bridge {self._settings.name} to {subnet}"):
            await self._ready_bridge()

    async def usage(self, pod: PodNetwork) -> Sequence[InterfaceUsage]:
        """Counters of the pod's interface; nothing once its namespace is gone."""
        return await interface_usage(pod)

    async def sweep(self, known: Collection[SandboxId]) -> Sequence[str]:
        """Release what pods hold that are not known, and links that belong to no holder of an address."""
        released: list[str] = []
        stale = [(pod, held) for pod, held in self._addresses.all().items() if pod not in known]
        with _as_broken(f"sweep bridge {self._settings.name}"):
            bridge = await self._ready_bridge()
            for pod, address in stale:
                await self._ports.remove(address)
                self._addresses.release(pod)
                released.append(f"address {address} of pod {pod}")
            leftover = self._leftover_links(bridge)
            gone = await asyncio.to_thread(_delete_links, leftover)
            released.extend(f"interface {name}" for name in gone)
        return released

    async def dismantle(self) -> None:
        """Delete the bridge and its table of rules."""
        with _as_broken(f"remove bridge {self._settings.name}"):
            await self._ports.uninstall()
            await asyncio.to_thread(_delete_links, [self._settings.name])
        self._bridge = None

    async def close(self) -> None:
        """End the nftables thread; bridge, rules and pods stay."""
        await self._ports.close()

    def _leftover_links(self, bridge: links.Link) -> list[str]:
        with Netlink() as netlink:
            ports = links.list_links(netlink, master=bridge.index)
        # A pod reserves its address before its link is made, so a link without a holder is not to come.
        held = {host_link_name(pod) for pod in self._addresses.all()}
        self._forget_detached()
        return [
            link.name
            for link in ports
            if link.name.startswith(_LINK_PREFIX)
            and link.name not in held
            and link.name not in self._detached
        ]

    def _forget_detached(self) -> None:
        now = time.monotonic()
        self._detached = {name: at for name, at in self._detached.items() if now - at < LINGER_SECONDS}

    def _make_interface(self, pod: PodNetwork, interface: links.PodInterface, bridge: links.Link) -> None:
        """On a thread of its own, which ends inside the pod's namespace."""
        name = host_link_name(pod.id)
        mac = mac_of(interface.address.ip)
        namespace = os.open(pod.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with Netlink() as outside:
                links.create_veth(
                    outside,
                    links.VethPair(name, interface.name, namespace, bridge.index, self._mtu, mac),
                )
            # A pod must not be able to route the host's IPv6 by advertisements (CVE-2020-10749).
            links.set_interface_option("ipv6", name, "accept_ra", 0)
            enter(namespace, "net")
        finally:
            os.close(namespace)
        with Netlink() as inside:
            links.configure_pod_interface(inside, interface)

    async def _ready_bridge(self, *, verify: bool = False) -> links.Link:
        async with self._preparing:
            if self._bridge is None:
                bridge = await asyncio.to_thread(self._prepare_bridge)
                await self._ports.install(self._subnets(), tuple(self._addresses.all().values()))
                self._bridge = bridge
            elif verify:
                self._bridge = await asyncio.to_thread(self._prepare_bridge)
                if await self._ports.restore_if_lost(self._subnets()):
                    _log.warning("nftables table %s was gone and is back", self._settings.table)
            return self._bridge

    def _subnets(self) -> tuple[IPv4Network, ...]:
        """The range, and alone the addresses that pods still hold from an earlier one."""
        subnet = self._addresses.subnet
        outside = {IPv4Network(held) for held in self._addresses.all().values() if held not in subnet}
        return (subnet, *sorted(outside))

    def _prepare_bridge(self) -> links.Link:
        """Make the bridge what it must be; cheap when it is."""
        name = self._settings.name
        gateway = IPv4Interface((self._addresses.gateway, self._addresses.subnet.prefixlen))
        with Netlink() as netlink:
            if (name, gateway) not in links.list_all_addresses(netlink):
                _refuse_overlap(netlink, name, gateway.network)
            try:
                bridge = links.get_link(netlink, name)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                links.create_bridge(netlink, name, mtu=self._mtu, mac=mac_of(gateway.ip))
                bridge = links.get_link(netlink, name)
                _log.info("made bridge %s with %s", name, gateway)
            if not bridge.up:
                links.set_link_up(netlink, name)
            links.ensure_address(netlink, bridge, gateway)
        if links.enable_ipv4_forwarding():
            _log.warning("enabled net.ipv4.ip_forward: pods on bridge %s need it", name)
        # Connections from 127.0.0.1 to a host port leave through the bridge; the guard chain of the
        # nftables rules keeps pods from reaching the host's loopback this way (CVE-2020-8558).
        links.set_interface_option("ipv4", name, "route_localnet", 1)
        links.set_interface_option("ipv6", name, "accept_ra", 0)
        return bridge


def _refuse_overlap(netlink: Netlink, bridge: str, subnet: IPv4Network) -> None:
    """OSError if another interface has an address whose network overlaps: pods would cut it off."""
    for name, address in links.list_all_addresses(netlink):
        if name != bridge and address.network.overlaps(subnet):
            raise OSError(errno.EADDRINUSE, f"subnet {subnet} overlaps {address} of {name}", bridge)


def _delete_links(names: Sequence[str]) -> list[str]:
    with Netlink() as netlink:
        return [name for name in names if links.delete_link(netlink, name)]
