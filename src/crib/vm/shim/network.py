"""The pod's network, taken into its VM: interfaces keep their names, addresses, MACs and routes.

Whoever made the pod's network finds it as he left it. A tap stands beside each of its interfaces, and all
that comes in at one leaves by the other (tc-mirred(8)), so that the namespace's own kernel sees none of it
and answers none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from crib.host.addresses import list_addresses
from crib.host.entering import run_in_namespace
from crib.host.links import LOOPBACK_INDEX, KernelLink, get_link, list_links, set_link_mtu, set_link_up
from crib.host.neighbours import permanent_neighbours
from crib.host.netlink import Netlink
from crib.host.routes import Address, Route, list_routes
from crib.host.taps import TAP_NAME, make_tap
from crib.host.traffic import redirect_incoming, stop_redirecting
from crib.vm.qemu import Tap

MOST_INTERFACES = 8
_MAC_TEXT = len("02:00:00:00:00:01")


@dataclass(frozen=True, slots=True)
class GuestInterface:
    """As proto/vm/guest.proto has it."""

    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    neighbours: tuple[tuple[str, str], ...] = ()
    """Address and MAC of those that are never asked for."""


@dataclass(frozen=True, slots=True)
class GuestRoute:
    """As proto/vm/guest.proto has it."""

    destination: str
    gateway: str
    interface: str
    metric: int
    onlink: bool


@dataclass(frozen=True, slots=True)
class JoinedNetwork:
    """What the guest is told, and the taps, whose descriptors are the holder's."""

    interfaces: tuple[GuestInterface, ...] = ()
    routes: tuple[GuestRoute, ...] = ()
    taps: tuple[Tap, ...] = ()

    def close(self) -> None:
        """Close the descriptors of the taps: qemu has its own."""
        for tap in self.taps:
            os.close(tap.fd)


def join_network(namespace: str) -> JoinedNetwork:
    """Make the taps in a network namespace, by its path. Blocks for some milliseconds. OSError."""
    return run_in_namespace(namespace, "net", _join)


def leave_network(namespace: str) -> None:
    """Undo what is left when the taps are gone: the namespace answers for itself again. OSError. Blocks."""

    def work() -> None:
        with Netlink() as netlink:
            for link in _of_pod(list_links(netlink)):
                stop_redirecting(netlink, link)

    run_in_namespace(namespace, "net", work)


def _join() -> JoinedNetwork:
    with Netlink() as netlink, contextlib.ExitStack() as undo:
        links = _of_pod(list_links(netlink))
        if len(links) > MOST_INTERFACES:
            raise OSError(f"the pod has {len(links)} interfaces, and a VM has at most {MOST_INTERFACES}")
        taps, interfaces = [], []
        for number, link in enumerate(links):
            name = f"{TAP_NAME}{number}"
            fd = make_tap(name)
            undo.callback(os.close, fd)
            set_link_mtu(netlink, name, link.mtu)
            set_link_up(netlink, name)
            tap = get_link(netlink, name)
            redirect_incoming(netlink, link, tap)
            redirect_incoming(netlink, tap, link)
            taps.append(Tap(fd, link.mac, link.mtu))
            interfaces.append(_interface(netlink, link))
        routes = guest_routes(list_routes(netlink), {link.index: link.name for link in links}, interfaces)
        undo.pop_all()
        return JoinedNetwork(tuple(interfaces), tuple(routes), tuple(taps))


def _of_pod(links: Sequence[KernelLink]) -> list[KernelLink]:
    """Those with an Ethernet address: not loopback, and not the fallback devices of tunnels."""
    return [
        link
        for link in links
        if link.index != LOOPBACK_INDEX
        and not link.name.startswith(TAP_NAME)
        and len(link.mac) == _MAC_TEXT
        and link.mac != "00:00:00:00:00:00"
    ]


def _interface(netlink: Netlink, link: KernelLink) -> GuestInterface:
    addresses = tuple(str(address) for address in list_addresses(netlink, link))
    stated = tuple((str(address), mac) for address, mac in permanent_neighbours(netlink, link).items())
    return GuestInterface(link.name, link.mac, link.mtu, addresses, stated)


def guest_routes(
    routes: Collection[Route], names: dict[int, str], interfaces: Collection[GuestInterface]
) -> list[GuestRoute]:
    """Those of the pod's interfaces that the guest's kernel does not make by itself with the addresses.

    What is reached directly comes first: gateways may be reached by it.
    """
    near = {one.name: [_network(address) for address in one.addresses] for one in interfaces}
    made = []
    for route in sorted(routes, key=lambda route: route.gateway is not None):
        name = names.get(route.index)
        if name is None or (route.gateway is None and route.destination in near[name]):
            continue
        made.append(
            GuestRoute(
                destination="" if route.is_default else str(route.destination),
                gateway=str(route.gateway or ""),
                interface=name,
                metric=route.metric,
                onlink=route.gateway is not None and not _is_near(route.gateway, near[name]),
            )
        )
    return made


def _network(address: str) -> object:
    return (IPv6Interface if ":" in address else IPv4Interface)(address).network


def _is_near(gateway: Address, networks: Collection[object]) -> bool:
    return any(gateway in network for network in networks)  # type: ignore[operator]  # of the two families
