"""Veth pairs whose far end is a pod's interface: made, set up inside the pod, and put right."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Final

from crib.host.addresses import new_address
from crib.host.links import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_MODE,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    LOOPBACK_INDEX,
    RTM_NEWLINK,
    get_link,
    link_header,
    mac_bytes,
    name_attribute,
    up_request,
)
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

_IFLA_NET_NS_FD: Final = 28
_VETH_INFO_PEER: Final = 1


@dataclass(frozen=True, slots=True)
class VethPair:
    """A pair of which one end is a port of a bridge here, the other born in a pod's namespace."""

    host_name: str
    pod_name: str
    pod_namespace: int  # an open descriptor of the namespace
    bridge_index: int
    mtu: int
    pod_mac: str
    isolated: bool = False
    """The port passes no frames to and from other isolated ports of its bridge."""


@dataclass(frozen=True, slots=True)
class PodInterface:
    """What is set up inside a pod's namespace: one interface, its addresses and the ways out."""

    name: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    gateways: tuple[IPv4Address | IPv6Address, ...]


def create_veth(netlink: Netlink, pair: VethPair) -> None:
    """Make the pair in one message, the host end up and on its bridge; then let the port hairpin.

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
        + u32_attribute(IFLA_MASTER, pair.bridge_index)
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    make = Request(RTM_NEWLINK, body, "make veth pair", pair.host_name, NLM_F_CREATE | NLM_F_EXCL)
    netlink.ask((make, _port_request(pair.host_name, isolated=pair.isolated)))


def set_port(netlink: Netlink, name: str, *, isolated: bool) -> None:
    """Let a port of a bridge hairpin, and isolate it from other isolated ports or not."""
    netlink.ask((_port_request(name, isolated=isolated),))


def _port_request(name: str, *, isolated: bool) -> Request:
    # With br_netfilter a pod's connection to itself through a host port or Service leaves by its own port.
    flags = attribute(IFLA_BRPORT_MODE, b"\x01") + attribute(IFLA_BRPORT_ISOLATED, bytes((isolated,)))
    slave = text_attribute(IFLA_INFO_SLAVE_KIND, "bridge") + attribute(
        IFLA_INFO_SLAVE_DATA | NLA_F_NESTED, flags
    )
    body = link_header() + name_attribute(name) + attribute(IFLA_LINKINFO | NLA_F_NESTED, slave)
    return Request(RTM_NEWLINK, body, "set hairpin mode", name)


def configure_pod_interface(netlink: Netlink, interface: PodInterface) -> None:
    """Bring loopback and the interface up, give it its addresses and the default routes.

    The socket must be of the pod's namespace. Two round trips. IPv6 addresses are usable at once: they are
    handed out once only, so nothing is asked of the neighbours (RFC 4862, section 5.4).
    """
    index = get_link(netlink, interface.name).index
    netlink.ask(
        (
            up_request(LOOPBACK_INDEX, "lo"),
            *(new_address(index, interface.name, address, NLM_F_EXCL) for address in interface.addresses),
            up_request(index, interface.name),
            *(new_default_route(index, interface.name, gateway) for gateway in interface.gateways),
        )
    )
