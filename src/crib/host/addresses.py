"""Addresses of interfaces, IPv4 and IPv6 (rtnetlink(7)), of whichever namespace the socket is of."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Interface, IPv6Interface

from crib.host.links import KernelLink, list_links
from crib.host.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Netlink,
    Request,
    attribute,
    parse_attributes,
)

_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_F_NODAD = 0x02
_RT_SCOPE_UNIVERSE = 0

_IFADDRMSG = struct.Struct("=BBBBI")

Interface = IPv4Interface | IPv6Interface


def new_address(index: int, name: str, address: Interface, flags: int) -> Request:
    """The message that gives an interface an address, which is usable at once."""
    return Request(_RTM_NEWADDR, _body(index, address), f"add address {address}", name, NLM_F_CREATE | flags)


def ensure_address(netlink: Netlink, link: KernelLink, address: Interface) -> None:
    """Give an interface an address; having it already is fine."""
    netlink.ask((new_address(link.index, link.name, address, NLM_F_REPLACE),))


def list_addresses(netlink: Netlink, link: KernelLink) -> list[Interface]:
    """An interface's addresses with their prefix lengths, IPv4 first, without IPv6's link-local ones."""
    return [address for index, address in _addresses(netlink, link.index) if index == link.index]


def list_all_addresses(netlink: Netlink) -> list[tuple[str, Interface]]:
    """The same of all interfaces, each with its interface's name."""
    names = {link.index: link.name for link in list_links(netlink)}
    return [(names[index], address) for index, address in _addresses(netlink, 0) if index in names]


def _addresses(netlink: Netlink, index: int) -> list[tuple[int, Interface]]:
    body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, index)
    found: list[tuple[int, Interface]] = []
    for reply in netlink.dump(Request(_RTM_GETADDR, body, "list addresses", "*")):
        if reply.kind != _RTM_NEWADDR or len(reply.body) < _IFADDRMSG.size:
            continue
        _family, prefix, _flags, _scope, owner = _IFADDRMSG.unpack_from(reply.body)
        attributes = parse_attributes(reply.body, _IFADDRMSG.size)
        # IFA_ADDRESS is a point-to-point link's far end; IPv6 has IFA_LOCAL only on such links.
        raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b"")
        if len(raw) == 4:
            found.append((owner, IPv4Interface((raw, prefix))))
        elif len(raw) == 16:
            address = IPv6Interface((raw, prefix))
            if not address.is_link_local:
                found.append((owner, address))
    return sorted(found, key=lambda item: item[1].version)


def _body(index: int, address: Interface) -> bytes:
    v6 = isinstance(address, IPv6Interface)
    header = _IFADDRMSG.pack(
        socket.AF_INET6 if v6 else socket.AF_INET,
        address.network.prefixlen,
        _IFA_F_NODAD if v6 else 0,
        _RT_SCOPE_UNIVERSE,
        index,
    )
    return header + attribute(_IFA_LOCAL, address.ip.packed) + attribute(_IFA_ADDRESS, address.ip.packed)
