"""Routes, IPv4 and IPv6 (rtnetlink(7)), of whichever namespace the socket is of: the main table only."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from crib.host.links import link_at
from crib.host.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    Reply,
    Request,
    attribute,
    parse_attributes,
    u32,
    u32_attribute,
)

_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_TABLE = 15
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RT_SCOPE_UNIVERSE = 0
_RTN_UNICAST = 1
_RTN_LOCAL = 2

_RTMSG = struct.Struct("=BBBBBBBBI")

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a network by one interface; one with several next hops is read without its interface (0)."""

    destination: IPv4Network | IPv6Network
    gateway: Address | None
    index: int
    metric: int

    @property
    def is_default(self) -> bool:
        """Whether it is taken by whatever no other route is for."""
        return self.destination.prefixlen == 0


def new_default_route(index: int, name: str, gateway: Address) -> Request:
    """The message that makes `gateway`, which is on the interface's link, the way to everywhere."""
    family = socket.AF_INET6 if gateway.version == 6 else socket.AF_INET
    header = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
    body = header + attribute(_RTA_GATEWAY, gateway.packed) + u32_attribute(_RTA_OIF, index)
    what = f"add default route via {gateway}"
    return Request(_RTM_NEWROUTE, body, what, name, NLM_F_CREATE | NLM_F_EXCL)


def list_routes(netlink: Netlink) -> list[Route]:
    """The unicast routes of the main table, IPv4 first, without those of IPv6's link-local network."""
    found: list[Route] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        replies = netlink.dump(Request(_RTM_GETROUTE, body, "list routes", "*"))
        found.extend(route for reply in replies if (route := _parse(reply, family)) is not None)
    return found


def is_local(netlink: Netlink, address: Address) -> bool:
    """Whether what is sent to an address is delivered here. OSError if there is no way to it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    header = _RTMSG.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body = header + attribute(_RTA_DST, address.packed)
    reply = netlink.get(Request(_RTM_GETROUTE, body, "look up route", str(address)))
    return bool(_RTMSG.unpack_from(reply.body)[7] == _RTN_LOCAL)


def default_mtu(netlink: Netlink) -> int:
    """The MTU in bytes of the interface that the default route leaves by (IPv4's first); 0 without one."""
    defaults = [route for route in list_routes(netlink) if route.is_default and route.index]
    if not defaults:
        return 0
    best = min(defaults, key=lambda route: (route.destination.version, route.metric))
    return link_at(netlink, best.index).mtu


def _parse(reply: Reply, family: int) -> Route | None:
    if reply.kind != _RTM_NEWROUTE or len(reply.body) < _RTMSG.size:
        return None
    answered, prefix, _source, _tos, table, _protocol, _scope, kind, _flags = _RTMSG.unpack_from(reply.body)
    attributes = parse_attributes(reply.body, _RTMSG.size)
    if (
        answered != family
        or kind != _RTN_UNICAST
        or (u32(attributes.get(_RTA_TABLE)) or table) != _RT_TABLE_MAIN
    ):
        return None
    raw = attributes.get(_RTA_DST, bytes(16 if family == socket.AF_INET6 else 4))
    gateway = attributes.get(_RTA_GATEWAY)
    destination: IPv4Network | IPv6Network
    if family == socket.AF_INET6:
        destination = IPv6Network((raw, prefix), strict=False)
        if destination.is_link_local or destination.is_multicast:
            return None
        via: Address | None = IPv6Address(gateway) if gateway else None
    else:
        destination = IPv4Network((raw, prefix), strict=False)
        via = IPv4Address(gateway) if gateway else None
    return Route(destination, via, u32(attributes.get(_RTA_OIF)), u32(attributes.get(_RTA_PRIORITY)))
