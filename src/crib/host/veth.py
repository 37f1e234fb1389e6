"""Veth pairs whose far end is a pod's interface: made, set up inside the pod, and put right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from crib.host.addresses import new_address
from crib.host.links import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_LEARNING,
    IFLA_BRPORT_MODE,
    IFLA_BRPORT_UNICAST_FLOOD,
    IFLA_GROUP,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    LOOPBACK_INDEX,
    RTM_NEWLINK,
    KernelLink,
    index_of,
    link_header,
    mac_bytes,
    name_attribute,
    up_request,
)
from crib.host.neighbours import Address, permanent_neighbour, static_entry
from crib.host.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    Request,
    attribute,
    text_attribute,
    u32_attribute,
)
from crib.host.routes import new_default_route

_IFLA_NET_NS_FD = 28
_VETH_INFO_PEER = 1


@dataclass(frozen=True, slots=True)
class PortSettings:
    """A pod's port of a bridge: it always hairpins, learns nothing and is sent nothing that is for no MAC."""

    group: int
    isolated: bool = False
    """It passes no frames to and from other isolated ports of its bridge."""

    def are_of(self, link: KernelLink) -> bool:
        """Whether a port has them; but for the flooding."""
        found = PortSettings(link.group, link.isolated)
        return found == self and link.hairpin and not link.learning


@dataclass(frozen=True, slots=True)
class VethPair:
    """A pair of which one end is a port of a bridge here, the other born in a pod's namespace."""

    host_name: str
    pod_name: str
    pod_namespace: int  # an open descriptor of the namespace
    bridge: KernelLink
    mtu: int
    pod_mac: str
    port: PortSettings


@dataclass(frozen=True, slots=True)
class PodInterface:
    """What is set up inside a pod's namespace: one interface, its addresses and the ways out."""

    name: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    gateways: tuple[IPv4Address | IPv6Address, ...]


def create_veth(netlink: Netlink, pair: VethPair, neighbours: Sequence[Address]) -> None:
    """Make the pair in one message, the host end up and on its bridge; then set its port up.

    From then on bridge and host know permanently behind which port the pod's MAC is, and that it is the MAC
    of `neighbours`, the pod's addresses. Nothing that a pod sends changes that.

    The peer's attributes name the pod's namespace, so that it is born there: moving a finished link
    waits for an RCU grace period (some 30 ms).
    """
    peer = (
        link_header()
        + name_attribute(pair.pod_name)
        + u32_attribute(IFLA_MTU, pair.mtu)
        + attribute(IFLA_ADDRESS, mac_bytes(pair.pod_mac))
        + u32_attribute(_IFLA_NET_NS_FD, pair.pod_namespace)
    )
    info = text_attribute(IFLA_INFO_KIND, "veth") + attribute(
        IFLA_INFO_DATA | NLA_F_NESTED, attribute(_VETH_INFO_PEER | NLA_F_NESTED, peer)
    )
    body = (
        link_header(flags=IFF_UP)
        + name_attribute(pair.host_name)
        + u32_attribute(IFLA_MTU, pair.mtu)
        + u32_attribute(IFLA_MASTER, pair.bridge.index)
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    make = Request(RTM_NEWLINK, body, "make veth pair", pair.host_name, NLM_F_CREATE | NLM_F_EXCL)
    netlink.ask((make, _port_request(pair.host_name, pair.port)))
    bridge, mac = pair.bridge, pair.pod_mac
    netlink.ask(
        (
            static_entry(index_of(pair.host_name), pair.host_name, mac),
            *(permanent_neighbour(bridge.index, bridge.name, address, mac) for address in neighbours),
        )
    )


def set_port(netlink: Netlink, port: KernelLink, settings: PortSettings, mac: str) -> None:
    """Give a pod's port these settings; `mac` is that of the pod's end, empty if it is not known."""
    stated = (static_entry(port.index, port.name, mac),) if mac else ()
    netlink.ask((_port_request(port.name, settings), *stated))


def _port_request(name: str, settings: PortSettings) -> Request:
    flags = (
        # With br_netfilter a pod's connection to itself through a host port leaves by its own port.
        attribute(IFLA_BRPORT_MODE, b"\x01")
        + attribute(IFLA_BRPORT_ISOLATED, bytes((settings.isolated,)))
        # A bridge learns from frames to 01:80:c2:00:00:0e before any rule sees them.
        + attribute(IFLA_BRPORT_LEARNING, b"\x00")
        + attribute(IFLA_BRPORT_UNICAST_FLOOD, b"\x00")
    )
    slave = text_attribute(IFLA_INFO_SLAVE_KIND, "bridge") + attribute(
        IFLA_INFO_SLAVE_DATA | NLA_F_NESTED, flags
    )
    body = (
        link_header()
        + name_attribute(name)
        + u32_attribute(IFLA_GROUP, settings.group)
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, slave)
    )
    return Request(RTM_NEWLINK, body, "set up port of bridge", name)


def configure_pod_interface(netlink: Netlink, interface: PodInterface, gateway_mac: str) -> None:
    """Bring loopback and the interface up, give it its addresses and the default routes.

    Permanent entries say that the gateways have `gateway_mac`.

    Thread and socket must be in the pod's namespace. One round trip. IPv6 addresses are usable at once: they
    are handed out once only, so nothing is asked of the neighbours (RFC 4862, section 5.4).
    """
    index = index_of(interface.name)
    netlink.ask(
        (
            up_request(LOOPBACK_INDEX, "lo"),
            *(new_address(index, interface.name, address, NLM_F_EXCL) for address in interface.addresses),
            up_request(index, interface.name),
            *(new_default_route(index, interface.name, gateway) for gateway in interface.gateways),
            *(
                permanent_neighbour(index, interface.name, gateway, gateway_mac)
                for gateway in interface.gateways
            ),
        )
    )
