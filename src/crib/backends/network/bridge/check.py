"""Whether a pod's network is still as the built-in bridge made it: the kernel compared with what is held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crib.backends.network.bridge.addresses import Address, Holding
from crib.backends.network.bridge.link import BridgeSpec
from crib.backends.network.interfaces import POD_INTERFACE
from crib.host import links
from crib.host.addresses import list_addresses
from crib.host.neighbours import has_static_entry, permanent_neighbours
from crib.host.netlink import Netlink
from crib.host.routes import list_routes


@dataclass(frozen=True, slots=True)
class Expected:
    """What attaching made. `gateways` are those of which there must be a default route."""

    host_link: str
    bridge: BridgeSpec
    holding: Holding
    gateways: tuple[Address, ...]


def link_problems(hosts: Netlink, pods: Netlink, expected: Expected) -> list[str]:
    """What is wrong with the pod's pair, on both of its ends; two sockets, of the host and of the pod."""
    return [*_host_problems(hosts, expected), *_pod_problems(hosts, pods, expected)]


def is_half_made(hosts: Netlink, pods: Netlink, host_link: str) -> bool:
    """Whether there is no pair, or one that nothing was done to yet: as a repair that was cut off leaves it.

    What a pod does to its end (renames it, takes it down) is its own affair. Sockets as in `link_problems`.
    """
    outer = links.find_link(hosts, host_link)
    if outer is None:
        return True
    inner = next((one for one in links.list_links(pods) if one.index == outer.peer), None)
    return inner is not None and not inner.up and not list_addresses(pods, inner)


def _host_problems(hosts: Netlink, expected: Expected) -> Iterator[str]:
    name, spec = expected.host_link, expected.bridge
    link, bridge = links.find_link(hosts, name), links.find_link(hosts, spec.name)
    if link is None:
        yield f"host interface {name} is gone"
        return
    if not link.up:
        yield f"host interface {name} is down"
    if bridge is None or link.master != bridge.index:
        yield f"host interface {name} is not a port of bridge {spec.name}"
        return
    if not link.hairpin:
        yield f"host interface {name} does not hairpin"
    if link.isolated != spec.isolates_ports:
        yield f"host interface {name} is {'' if link.isolated else 'not '}isolated from those of other pods"
    if link.learning or link.group != spec.port.group:
        yield f"host interface {name} is not filtered"
    mac = expected.holding.link_mac
    if not has_static_entry(hosts, link, mac):
        yield f"bridge {spec.name} does not know that {mac} is behind {name}"
    stated = permanent_neighbours(hosts, bridge)
    for address in expected.holding.addresses:
        if stated.get(address) != mac:
            yield f"the host does not know the MAC of {address}"


def _pod_problems(hosts: Netlink, pods: Netlink, expected: Expected) -> Iterator[str]:
    loopback, link = links.find_link(pods, "lo"), links.find_link(pods, POD_INTERFACE)
    if loopback is None or not loopback.up:
        yield "lo is down"
    if link is None:
        yield f"{POD_INTERFACE} is gone"
        return
    host_end = links.find_link(hosts, expected.host_link)
    if host_end is not None and (link.peer, host_end.peer) != (host_end.index, link.index):
        yield f"{POD_INTERFACE} is not the other end of host interface {expected.host_link}"
    if not link.up:
        yield f"{POD_INTERFACE} is down"
    if link.mac != expected.holding.link_mac:
        yield f"{POD_INTERFACE} has MAC {link.mac} instead of {expected.holding.link_mac}"
    present = {address.ip for address in list_addresses(pods, link)}
    for address in expected.holding.addresses:
        if address not in present:
            yield f"{POD_INTERFACE} lacks address {address}"
    ways = {route.gateway for route in list_routes(pods) if route.is_default and route.index == link.index}
    stated, bridge = permanent_neighbours(pods, link), links.find_link(hosts, expected.bridge.name)
    for gateway in expected.gateways:
        if gateway not in ways:
            yield f"there is no default route by {gateway}"
        if bridge is not None and stated.get(gateway) != bridge.mac:
            yield f"{POD_INTERFACE} does not know the MAC of {gateway}"
