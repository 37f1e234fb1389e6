"""Interfaces, addresses and routes (rtnetlink(7)) of whichever namespace the socket is of.

Functions take the open `Netlink` socket and so act on the namespace in which it was opened. All are
synchronous; each costs well under a millisecond unless another process holds the kernel's rtnl lock.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from crib.host.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    MalformedMessage,
    Netlink,
    Reply,
    Request,
    attribute,
    parse_attributes,
    text_attribute,
    u32_attribute,
)

_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24

_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_IFLA_STATS64: Final = 23
_IFLA_NET_NS_FD: Final = 28
_IFLA_EXT_MASK: Final = 29
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_IFLA_INFO_SLAVE_KIND: Final = 4
_IFLA_INFO_SLAVE_DATA: Final = 5
_IFLA_BRPORT_MODE: Final = 4
_VETH_INFO_PEER: Final = 1
_RTEXT_FILTER_SKIP_STATS: Final = 8

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_LABEL: Final = 3
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RT_TABLE_MAIN: Final = 254
_RTPROT_STATIC: Final = 4
_RT_SCOPE_UNIVERSE: Final = 0
_RTN_UNICAST: Final = 1

IFF_UP: Final = 0x1
LOOPBACK_INDEX: Final = 1
INTERFACE_NAME_BYTES: Final = 15

_IFINFOMSG: Final = struct.Struct("=BxHiII")
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_STATS64: Final = struct.Struct("=8Q")


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel lists it; `master` is the index of its bridge, 0 for none."""

    index: int
    name: str
    up: bool
    mtu: int
    master: int
    mac: str


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Counters of an interface since it was made (rtnl_link_stats64)."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class VethPair:
    """A pair of which one end is a port of a bridge here, the other born in a pod's namespace."""

    host_name: str
    pod_name: str
    pod_namespace: int  # an open descriptor of the namespace
    bridge_index: int
    mtu: int
    pod_mac: str


@dataclass(frozen=True, slots=True)
class PodInterface:
    """What is set up inside a pod's namespace: one interface, its address and the way out."""

    name: str
    address: IPv4Interface
    gateway: IPv4Address


def check_interface_name(name: str) -> str:
    """The name itself; ValueError if the kernel would not take it."""
    if not 0 < len(name.encode()) <= INTERFACE_NAME_BYTES or name in {".", ".."}:
        raise ValueError(f"interface name {name!r} is not 1 to {INTERFACE_NAME_BYTES} bytes long")
    if any(char.isspace() or char in "/:" for char in name):
        raise ValueError(f"interface name {name!r} contains a space, slash or colon")
    return name


def create_bridge(netlink: Netlink, name: str, *, mtu: int, mac: str) -> None:
    """Make a bridge and bring it up. FileExistsError if the name is taken.

    A stated MAC stays: without one a bridge takes its lowest port's, which changes under the pods.
    """
    info = text_attribute(_IFLA_INFO_KIND, "bridge")
    body = (
        _link_header(flags=IFF_UP)
        + _name_attribute(name)
        + u32_attribute(_IFLA_MTU, mtu)
        + attribute(_IFLA_ADDRESS, mac_bytes(mac))
        + attribute(_IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    netlink.ask((Request(_RTM_NEWLINK, body, "make bridge", name, NLM_F_CREATE | NLM_F_EXCL),))


def create_veth(netlink: Netlink, pair: VethPair) -> None:
    """Make the pair in one message, the host end up and on its bridge; then let the port hairpin.

    The peer's attributes name the pod's namespace, so that it is born there: moving a finished link
    waits for an RCU grace period (some 30 ms).
    """
    peer = (
        _link_header()
        + _name_attribute(pair.pod_name)
        + u32_attribute(_IFLA_MTU, pair.mtu)
        + attribute(_IFLA_ADDRESS, mac_bytes(pair.pod_mac))
        + u32_attribute(_IFLA_NET_NS_FD, pair.pod_namespace)
    )
    info = text_attribute(_IFLA_INFO_KIND, "veth") + attribute(
        _IFLA_INFO_DATA | NLA_F_NESTED, attribute(_VETH_INFO_PEER | NLA_F_NESTED, peer)
    )
    body = (
        _link_header(flags=IFF_UP)
        + _name_attribute(pair.host_name)
        + u32_attribute(_IFLA_MTU, pair.mtu)
        + u32_attribute(_IFLA_MASTER, pair.bridge_index)
        + attribute(_IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    request = Request(_RTM_NEWLINK, body, "make veth pair", pair.host_name, NLM_F_CREATE | NLM_F_EXCL)
    # With br_netfilter a pod's connection to itself through a host port or Service leaves by its own port.
    slave = text_attribute(_IFLA_INFO_SLAVE_KIND, "bridge") + attribute(
        _IFLA_INFO_SLAVE_DATA | NLA_F_NESTED, attribute(_IFLA_BRPORT_MODE, b"\x01")
    )
    hairpin = (
        _link_header() + _name_attribute(pair.host_name) + attribute(_IFLA_LINKINFO | NLA_F_NESTED, slave)
    )
    netlink.ask((request, Request(_RTM_NEWLINK, hairpin, "set hairpin mode", pair.host_name)))


def configure_pod_interface(netlink: Netlink, interface: PodInterface) -> Link:
    """Bring loopback and the interface up, give it its address and the default route.

    The socket must be of the pod's namespace. Two round trips. Returns the interface.
    """
    link = get_link(netlink, interface.name)
    netlink.ask(
        (
            _set_up(LOOPBACK_INDEX, "lo"),
            _new_address(link.index, interface.name, interface.address),
            _set_up(link.index, interface.name),
            _new_default_route(link.index, interface.name, interface.gateway),
        )
    )
    return link


def set_loopback_up(netlink: Netlink) -> None:
    """Bring `lo` up."""
    netlink.ask((_set_up(LOOPBACK_INDEX, "lo"),))


def set_link_up(netlink: Netlink, name: str) -> None:
    """Bring an interface up."""
    netlink.ask((Request(_RTM_NEWLINK, _link_header(flags=IFF_UP) + _name_attribute(name), "set up", name),))


def set_link_mtu(netlink: Netlink, name: str, mtu: int) -> None:
    """Set an interface's MTU in bytes."""
    body = _link_header() + _name_attribute(name) + u32_attribute(_IFLA_MTU, mtu)
    netlink.ask((Request(_RTM_NEWLINK, body, f"set mtu {mtu}", name),))


def ensure_address(netlink: Netlink, link: Link, address: IPv4Interface) -> None:
    """Give an interface an address; having it already is fine."""
    netlink.ask((_new_address(link.index, link.name, address, NLM_F_REPLACE),))


def get_link(netlink: Netlink, name: str) -> Link:
    """The interface of that name. OSError ENODEV if there is none."""
    return _parse_link(netlink.get(_get_link_request(name, _RTEXT_FILTER_SKIP_STATS, "look up interface")))


def list_links(netlink: Netlink, *, master: int = 0) -> list[Link]:
    """All interfaces, or the ports of the bridge with index `master`."""
    body = _link_header() + u32_attribute(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    if master:
        body += u32_attribute(_IFLA_MASTER, master)
    replies = netlink.dump(Request(_RTM_GETLINK, body, "list interfaces", "*"))
    links = [_parse_link(reply) for reply in replies if reply.kind == _RTM_NEWLINK]
    return [link for link in links if not master or link.master == master]


def list_all_addresses(netlink: Netlink) -> list[tuple[str, IPv4Interface]]:
    """The IPv4 addresses of all interfaces, each with its interface's name and prefix length."""
    body = _IFADDRMSG.pack(socket.AF_INET, 0, 0, 0, 0)
    found: list[tuple[str, IPv4Interface]] = []
    for reply in netlink.dump(Request(_RTM_GETADDR, body, "list addresses", "*")):
        if reply.kind != _RTM_NEWADDR or len(reply.body) < _IFADDRMSG.size:
            continue
        family, prefix, *_ = _IFADDRMSG.unpack_from(reply.body)
        attributes = parse_attributes(reply.body, _IFADDRMSG.size)
        raw = attributes.get(_IFA_LOCAL, b"")
        label = attributes.get(_IFA_LABEL, b"").rstrip(b"\0").decode("utf-8", "replace")
        if family == socket.AF_INET and len(raw) == 4:
            # The label is the interface's name, with a colon and a word after it for an alias.
            found.append((label.partition(":")[0], IPv4Interface((raw, prefix))))
    return found


def list_addresses(netlink: Netlink, link: Link) -> list[IPv4Interface]:
    """An interface's IPv4 addresses with their prefix lengths."""
    return [address for name, address in list_all_addresses(netlink) if name == link.name]


def delete_link(netlink: Netlink, name: str) -> bool:
    """Remove an interface; False if there was none. Waits for an RCU grace period (some 30 ms)."""
    try:
        netlink.ask((Request(_RTM_DELLINK, _link_header() + _name_attribute(name), "delete link", name),))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise
    return True


def link_statistics(netlink: Netlink, name: str) -> LinkStatistics:
    """The counters of an interface. OSError ENODEV if there is none."""
    reply = netlink.get(_get_link_request(name, 0, "read counters"))
    _, attributes = _link_parts(reply)
    raw = attributes.get(_IFLA_STATS64, b"")
    if len(raw) < _STATS64.size:
        raise MalformedMessage(f"counters of {name} are {len(raw)} bytes")
    rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped = (
        _STATS64.unpack_from(raw)
    )
    return LinkStatistics(
        name=name,
        rx_bytes=rx_bytes,
        rx_packets=rx_packets,
        rx_errors=rx_errors,
        rx_dropped=rx_dropped,
        tx_bytes=tx_bytes,
        tx_packets=tx_packets,
        tx_errors=tx_errors,
        tx_dropped=tx_dropped,
    )


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC written with colons."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"mac address {mac!r} is not six bytes long")
    return raw


def set_interface_option(family: str, name: str, option: str, value: int) -> None:
    """Set `net.FAMILY.conf.NAME.OPTION` (ip-sysctl); quietly nothing for ipv6 on a kernel without it."""
    path = f"/proc/sys/net/{family}/conf/{check_interface_name(name)}/{option}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if family == "ipv6":
            return
        raise
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def enable_ipv4_forwarding() -> bool:
    """Have the host forward between interfaces; True if that was off."""
    path = "/proc/sys/net/ipv4/ip_forward"
    with open(path, encoding="ascii") as file:
        if file.read().strip() != "0":
            return False
    with open(path, "w", encoding="ascii") as file:
        file.write("1")
    return True


def _link_header(*, index: int = 0, flags: int = 0) -> bytes:
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, flags, flags)


def _name_attribute(name: str) -> bytes:
    return text_attribute(_IFLA_IFNAME, check_interface_name(name))


def _get_link_request(name: str, mask: int, what: str) -> Request:
    body = _link_header() + _name_attribute(name) + u32_attribute(_IFLA_EXT_MASK, mask)
    return Request(_RTM_GETLINK, body, what, name)


def _set_up(index: int, name: str) -> Request:
    return Request(_RTM_NEWLINK, _link_header(index=index, flags=IFF_UP), "set up", name)


def _new_address(index: int, name: str, address: IPv4Interface, flags: int = NLM_F_EXCL) -> Request:
    body = (
        _IFADDRMSG.pack(socket.AF_INET, address.network.prefixlen, 0, _RT_SCOPE_UNIVERSE, index)
        + attribute(_IFA_LOCAL, address.ip.packed)
        + attribute(_IFA_ADDRESS, address.ip.packed)
    )
    return Request(_RTM_NEWADDR, body, f"add address {address}", name, NLM_F_CREATE | flags)


def _new_default_route(index: int, name: str, gateway: IPv4Address) -> Request:
    header = _RTMSG.pack(
        socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0
    )
    body = header + attribute(_RTA_GATEWAY, gateway.packed) + u32_attribute(_RTA_OIF, index)
    what = f"add default route via {gateway}"
    return Request(_RTM_NEWROUTE, body, what, name, NLM_F_CREATE | NLM_F_EXCL)


def _link_parts(reply: Reply) -> tuple[Sequence[int], dict[int, bytes]]:
    if len(reply.body) < _IFINFOMSG.size:
        raise MalformedMessage(f"interface message of {len(reply.body)} bytes")
    return _IFINFOMSG.unpack_from(reply.body), parse_attributes(reply.body, _IFINFOMSG.size)


def _parse_link(reply: Reply) -> Link:
    header, attributes = _link_parts(reply)
    _family, _type, index, flags, _change = header
    return Link(
        index=index,
        name=attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace"),
        up=bool(flags & IFF_UP),
        mtu=_u32(attributes.get(_IFLA_MTU)),
        master=_u32(attributes.get(_IFLA_MASTER)),
        mac=attributes.get(_IFLA_ADDRESS, b"").hex(":"),
    )


def _u32(raw: bytes | None) -> int:
    return struct.unpack("=I", raw)[0] if raw is not None and len(raw) == 4 else 0
