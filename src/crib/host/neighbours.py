"""Neighbours that are stated, not asked for (rtnetlink(7)), of whichever namespace the socket is of.

No ARP or NDP message changes a permanent neighbour, and no frame's source address a static entry of a bridge
whose port learns nothing. Both are messages for `Netlink.ask`, so that they go with others in one round trip.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from crib.host.links import KernelLink, mac_bytes
from crib.host.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Netlink,
    Reply,
    Request,
    attribute,
    parse_attributes,
    u32_attribute,
)

_RTM_NEWNEIGH = 28
_RTM_DELNEIGH = 29
_RTM_GETNEIGH = 30
_NDA_DST = 1
_NDA_LLADDR = 2
_NDA_IFINDEX = 8
_NUD_NOARP = 0x40
_NUD_PERMANENT = 0x80
_NTF_MASTER = 0x04

_NDMSG = struct.Struct("=BBHiHBB")

Address = IPv4Address | IPv6Address


def permanent_neighbour(index: int, name: str, address: Address, mac: str) -> Request:
    """The message that sets permanently which MAC an address on the interface's link has."""
    header = _NDMSG.pack(_family(address), 0, 0, index, _NUD_PERMANENT, 0, 0)
    body = header + attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac_bytes(mac))
    return Request(_RTM_NEWNEIGH, body, f"add neighbour {address}", name, NLM_F_CREATE | NLM_F_REPLACE)


def static_entry(index: int, name: str, mac: str) -> Request:
    """The message that sets permanently that a MAC is behind this port of its bridge."""
    header = _NDMSG.pack(socket.AF_BRIDGE, 0, 0, index, _NUD_NOARP, _NTF_MASTER, 0)
    body = header + attribute(_NDA_LLADDR, mac_bytes(mac))
    return Request(_RTM_NEWNEIGH, body, f"add {mac} to bridge", name, NLM_F_CREATE | NLM_F_REPLACE)


def forget_neighbours(netlink: Netlink, link: KernelLink, addresses: Collection[Address]) -> None:
    """Remove the entries for these addresses on an interface's link. Entries and interface may be missing."""
    requests = [
        Request(
            _RTM_DELNEIGH,
            _NDMSG.pack(_family(address), 0, 0, link.index, 0, 0, 0) + attribute(_NDA_DST, address.packed),
            f"remove neighbour {address}",
            link.name,
        )
        for address in addresses
    ]
    try:
        netlink.ask(requests)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def permanent_neighbours(netlink: Netlink, link: KernelLink) -> Mapping[Address, str]:
    """The MACs in permanent entries on an interface's link, by address."""
    found: dict[Address, str] = {}
    body = _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0) + u32_attribute(_NDA_IFINDEX, link.index)
    for reply in netlink.dump(Request(_RTM_GETNEIGH, body, "list neighbours", link.name)):
        index, state, attributes = _parse(reply)
        raw = attributes.get(_NDA_DST, b"")
        if index == link.index and state & _NUD_PERMANENT and len(raw) in {4, 16}:
            found[ip_address(raw)] = attributes.get(_NDA_LLADDR, b"").hex(":")
    return found


def has_static_entry(netlink: Netlink, port: KernelLink, mac: str) -> bool:
    """Whether a permanent entry says that the MAC is behind this port of its bridge."""
    header = _NDMSG.pack(socket.AF_BRIDGE, 0, 0, port.index, 0, _NTF_MASTER, 0)
    body = header + attribute(_NDA_LLADDR, mac_bytes(mac))
    try:
        reply = netlink.get(Request(_RTM_GETNEIGH, body, f"look up {mac} in bridge", port.name))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    index, state, _ = _parse(reply)
    return index == port.index and bool(state & _NUD_NOARP)


def _family(address: Address) -> int:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def _parse(reply: Reply) -> tuple[int, int, dict[int, bytes]]:
    """Interface index, state and attributes; zeros for a message that is none of a neighbour."""
    if reply.kind != _RTM_NEWNEIGH or len(reply.body) < _NDMSG.size:
        return 0, 0, {}
    _family, _pad1, _pad2, index, state, _flags, _type = _NDMSG.unpack_from(reply.body)
    return index, state, parse_attributes(reply.body, _NDMSG.size)
