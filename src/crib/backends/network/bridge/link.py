"""The built-in bridge's interfaces on the host: the bridge, and the veth pairs of pods. All synchronous.

Everything is derived from settings and the pod's id, so that nothing of it is on record.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crib.backends.network.bridge.addresses import Address, Holding, Range, mac_of
from crib.backends.network.interfaces import POD_INTERFACE
from crib.host import ip_settings, links
from crib.host.addresses import Interface, ensure_address, list_addresses, list_all_addresses
from crib.host.namespaces import enter
from crib.host.neighbours import forget_neighbours, permanent_neighbour, permanent_neighbours
from crib.host.netlink import MalformedMessage, Netlink
from crib.host.routes import default_mtu, is_local
from crib.host.veth import (
    PodInterface,
    PortSettings,
    VethPair,
    configure_pod_interface,
    create_veth,
    set_port,
)
from crib.model.ids import SandboxId

_log = logging.getLogger(__name__)

DEFAULT_MTU = 1500
LINK_PREFIX = "crib"
LOCAL_SECONDS = 1.0
OPERATIONAL_SECONDS = 1.0
NEIGHBOURS_AT_ONCE = 64
"""More answers might not fit into a socket's buffer."""


@dataclass(frozen=True, slots=True)
class BridgeSpec:
    """`mtu` in bytes; `gateways` are the bridge's own addresses, IPv4's first."""

    name: str
    mtu: int
    gateways: tuple[Interface, ...]
    isolated: bool
    """Pods reach each other through host ports only."""

    @property
    def isolates_ports(self) -> bool:
        """Whether the bridge itself is what keeps its ports apart.

        Not where br_netfilter is: there what leads a host port to a pod makes the bridge pass the packet from
        port to port, which isolated ones would refuse. But there the rules see all that it passes.
        """
        return self.isolated and not ip_settings.can_filter_bridged()

    @property
    def port(self) -> PortSettings:
        """What a pod's port must be."""
        return PortSettings(port_group(self.name), self.isolates_ports)


@dataclass(frozen=True, slots=True)
class PodLink:
    """A pod's pair: `netns` is the path of its namespace."""

    pod: SandboxId
    netns: str
    holding: Holding
    interface: PodInterface


def host_link_name(pod: SandboxId) -> str:
    """The host end of a pod's veth pair: derived, so that no record is needed to find it."""
    return LINK_PREFIX + hashlib.sha256(pod.encode()).hexdigest()[: links.INTERFACE_NAME_BYTES - 4]


def port_group(bridge: str) -> int:
    """The interface group of pods' ports: of this bridge alone, as the rules of two may meet on a host."""
    return int.from_bytes(hashlib.sha256(bridge.encode()).digest()[:4], "big") >> 1 | 1


def host_mtu() -> int:
    """The MTU of the interface that the host's default route leaves by, 1500 without one.

    Through a tunnel or an overlay network packets of 1500 bytes do not fit.
    """
    try:
        with Netlink() as netlink:
            return default_mtu(netlink) or DEFAULT_MTU
    except MalformedMessage as error:
        _log.warning("pods get an MTU of %d bytes: %s", DEFAULT_MTU, error)
        return DEFAULT_MTU


def prepare_bridge(spec: BridgeSpec) -> links.KernelLink:
    """Make the bridge what it must be; cheap when it is.

    OSError EADDRINUSE if another interface's network overlaps a range: pods would cut it off.
    """
    name = spec.name
    with Netlink() as netlink:
        bridge = links.find_link(netlink, name)
        present = list_addresses(netlink, bridge) if bridge is not None else []
        missing = [gateway for gateway in spec.gateways if gateway not in present]
        if missing:
            _refuse_overlap(netlink, name, [gateway.network for gateway in missing])
        if bridge is None:
            links.create_bridge(netlink, name, mtu=spec.mtu, mac=mac_of(spec.gateways[0].ip))
            bridge = links.get_link(netlink, name)
            _log.info("made bridge %s with %s", name, ", ".join(map(str, spec.gateways)))
        _set_options(spec)
        if bridge.mtu != spec.mtu:
            links.set_link_mtu(netlink, name, spec.mtu)
        if not bridge.up:
            links.set_link_up(netlink, name)
        for gateway in missing:
            ensure_address(netlink, bridge, gateway)
        _await_local(netlink, missing)
        _enable_forwarding(spec)
        return bridge


def _await_local(netlink: Netlink, added: Sequence[Interface]) -> None:
    """Until the kernel delivers to IPv6 addresses that were just added: it does so from a work queue.

    Who connects before it asks the pods for our own address, and waits 3 s for no answer.
    """
    deadline = time.monotonic() + LOCAL_SECONDS
    for address in added:
        while address.version == 6 and not is_local(netlink, address.ip) and time.monotonic() < deadline:
            time.sleep(0.001)  # no message announces it; this is a thread of its own


def bridge_problems(netlink: Netlink, spec: BridgeSpec) -> list[str]:
    """What is not as `prepare_bridge` makes it."""
    problems: list[str] = []
    bridge = links.find_link(netlink, spec.name)
    if bridge is None:
        problems.append(f"bridge {spec.name} is gone")
    else:
        if not bridge.up:
            problems.append(f"bridge {spec.name} is down")
        present = list_addresses(netlink, bridge)
        missing = [gateway for gateway in spec.gateways if gateway not in present]
        problems += [f"bridge {spec.name} lacks address {gateway}" for gateway in missing]
    for gateway in spec.gateways:
        if not ip_settings.is_forwarding(gateway.version):
            problems.append(f"the host does not forward IPv{gateway.version}")
    return problems


def align_ports(bridge: links.KernelLink, spec: BridgeSpec, holdings: Mapping[SandboxId, Holding]) -> None:
    """Make the pods' ports, which may be older than we are, what they must be today."""
    settings = spec.port
    macs = {host_link_name(pod): holding.link_mac for pod, holding in holdings.items()}
    with Netlink() as netlink:
        links.set_bridge_filtering(netlink, spec.name, on=spec.isolated and not settings.isolated)
        for port in links.list_links(netlink, master=bridge.index):
            if port.name.startswith(LINK_PREFIX) and not settings.are_of(port):
                set_port(netlink, port, settings, macs.get(port.name, ""))


def ensure_neighbours(bridge: links.KernelLink, holdings: Mapping[SandboxId, Holding]) -> None:
    """State again which MACs pods have, where somebody (or the bridge's going down) took that away."""
    with Netlink() as netlink:
        present = permanent_neighbours(netlink, bridge)
        lost = [
            permanent_neighbour(bridge.index, bridge.name, address, holding.link_mac)
            for holding in holdings.values()
            for address in holding.addresses
            if present.get(address) != holding.link_mac
        ]
        for first in range(0, len(lost), NEIGHBOURS_AT_ONCE):
            netlink.ask(lost[first : first + NEIGHBOURS_AT_ONCE])


def forget_pod(bridge: links.KernelLink, addresses: Sequence[Address]) -> None:
    """Let the host ask again who has these addresses."""
    with Netlink() as netlink:
        forget_neighbours(netlink, bridge, addresses)


def make_pod_link(link: PodLink, bridge: links.KernelLink, spec: BridgeSpec) -> None:
    """On a thread of its own, which ends inside the pod's namespace."""
    name, mac = host_link_name(link.pod), link.holding.link_mac
    namespace = os.open(link.netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Netlink() as outside:
            pair = VethPair(name, link.interface.name, namespace, bridge, spec.mtu, mac, spec.port)
            create_veth(outside, pair, link.holding.addresses)
            # A pod must not be able to route the host's IPv6 by advertisements (CVE-2020-10749).
            ip_settings.set_interface_option("ipv6", name, "accept_ra", 0)
            enter(namespace, "net")
            # Nor one pod another's.
            ip_settings.set_interface_option("ipv6", link.interface.name, "accept_ra", 0)
            if any(address.version == 6 for address in link.interface.addresses):
                _enable_ipv6(link.interface.name)
            with Netlink() as inside:
                configure_pod_interface(inside, link.interface, bridge.mac)
            _await_operational(outside, (name, bridge.name))
    finally:
        os.close(namespace)


def _await_operational(netlink: Netlink, names: Sequence[str]) -> None:
    """Until interfaces whose other end has come up send what they are given: a work queue does that.

    As nobody asks for MACs, no question that is asked again hides that the first frames are lost. Since Linux
    6.8 a look has the work done.
    """
    deadline = time.monotonic() + OPERATIONAL_SECONDS
    for name in names:
        while not links.get_link(netlink, name).operational and time.monotonic() < deadline:
            time.sleep(0.001)  # no message announces it; this is a thread of its own


def ensure_gateways(pods: Netlink, gateways: Sequence[Address], mac: str) -> None:
    """State in a pod's namespace which MAC its gateways have; one that an older version attached asks."""
    eth0 = links.find_link(pods, POD_INTERFACE)
    if eth0 is not None and eth0.up and gateways:
        pods.ask([permanent_neighbour(eth0.index, eth0.name, gateway, mac) for gateway in gateways])


def unmake_pod_link(pod: SandboxId, netns: str) -> None:
    """Delete the pod's pair, and whatever is called eth0 in its namespace; for a thread of its own."""
    with Netlink() as outside:
        links.delete_link(outside, host_link_name(pod))
    enter(netns, "net")
    with Netlink() as inside:
        links.delete_link(inside, POD_INTERFACE)


def pod_ports(bridge: links.KernelLink) -> list[str]:
    """The bridge's ports that are pods'."""
    with Netlink() as netlink:
        ports = links.list_links(netlink, master=bridge.index)
    return [port.name for port in ports if port.name.startswith(LINK_PREFIX)]


def delete_links(names: Sequence[str]) -> list[str]:
    """Delete interfaces, some 30 ms each; those that were there."""
    with Netlink() as netlink:
        return [name for name in names if links.delete_link(netlink, name)]


def _set_options(spec: BridgeSpec) -> None:
    # Connections from 127.0.0.1 to a host port leave through the bridge; the guard chain of the
    # nftables rules keeps pods from reaching the host's loopback this way (CVE-2020-8558).
    ip_settings.set_interface_option("ipv4", spec.name, "route_localnet", 1)
    ip_settings.set_interface_option("ipv6", spec.name, "accept_ra", 0)
    if _has_ipv6(spec):
        _enable_ipv6(spec.name)


def _enable_ipv6(name: str) -> None:
    # Writing what is there already would still queue for the kernel's rtnl lock.
    if ip_settings.interface_option("ipv6", name, "disable_ipv6"):
        ip_settings.set_interface_option("ipv6", name, "disable_ipv6", 0)
    ip_settings.set_interface_option("ipv6", name, "accept_dad", 0)


def _enable_forwarding(spec: BridgeSpec) -> None:
    if ip_settings.enable_ipv4_forwarding():
        _log.warning("enabled net.ipv4.ip_forward: pods on bridge %s need it", spec.name)
    if _has_ipv6(spec):
        kept = ip_settings.enable_ipv6_forwarding()
        for interface in kept or ():
            _log.warning("set accept_ra of %s to 2: it keeps its routes by advertisements", interface)
        if kept is not None:
            _log.warning("enabled net.ipv6.conf.all.forwarding: pods on bridge %s need it", spec.name)


def _has_ipv6(spec: BridgeSpec) -> bool:
    return any(gateway.version == 6 for gateway in spec.gateways)


def _refuse_overlap(netlink: Netlink, bridge: str, ranges: Sequence[Range]) -> None:
    for name, address in list_all_addresses(netlink):
        for subnet in ranges:
            network = address.network
            if name != bridge and network.version == subnet.version and network.overlaps(subnet):
                raise OSError(errno.EADDRINUSE, f"subnet {subnet} overlaps {address} of {name}", bridge)
