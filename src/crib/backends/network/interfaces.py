"""What both kinds of network see and do inside a pod's namespace: loopback, interfaces, routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from crib.backends.failures import trying
from crib.host import links
from crib.host.addresses import list_addresses
from crib.host.namespaces import enter
from crib.host.netlink import Netlink
from crib.host.routes import Route, list_routes
from crib.host.threads import OURS, Job
from crib.model.network import InterfaceView, RouteView
from crib.ports.networks import PodNetwork

T = TypeVar("T")

POD_INTERFACE = "eth0"
"""The name that Kubernetes expects of a pod's first interface."""
_LOOPBACK = "lo"


async def bring_loopback_up(pod: PodNetwork) -> None:
    """Bring `lo` up in the pod's namespace. Broken if that cannot be done."""
    with trying(f"bring loopback of pod {pod.id} up"):
        await inside(pod, lambda _, pods: links.set_loopback_up(pods))


async def pod_interfaces(pod: PodNetwork) -> tuple[tuple[InterfaceView, ...], tuple[RouteView, ...]]:
    """The pod's interfaces but loopback, eth0 first, and its routes; nothing once the namespace is gone."""
    try:
        return await inside(pod, _look)
    except OSError:
        return (), ()


NETLINK_SECONDS = 30.0
"""For a few questions to the kernel, each of which waits for anybody who is changing interfaces (RTNL)."""


async def inside(pod: PodNetwork, work: Callable[[Netlink, Netlink], T]) -> T:
    """Run `work` on a thread inside the pod's namespace, with a socket of the host's and one of the pod's."""

    def run() -> T:
        with Netlink() as hosts:
            enter(pod.netns, "net")
            with Netlink() as pods:
                return work(hosts, pods)

    job = Job(f"network namespace {pod.netns}", pod.id, NETLINK_SECONDS, spends_thread=True)
    return await OURS.run(job, run)


def _look(hosts: Netlink, pods: Netlink) -> tuple[tuple[InterfaceView, ...], tuple[RouteView, ...]]:
    found = sorted(
        (link for link in links.list_links(pods) if link.name != _LOOPBACK),
        key=lambda link: (link.name != POD_INTERFACE, link.index),
    )
    names = {link.index: link.name for link in found}
    return (
        tuple(_interface(hosts, pods, link) for link in found),
        tuple(_route(route, names) for route in list_routes(pods) if route.index in names),
    )


def _interface(hosts: Netlink, pods: Netlink, link: links.KernelLink) -> InterfaceView:
    host_end, bridge = _host_end(hosts, link)
    return InterfaceView(
        name=link.name,
        mac=link.mac,
        mtu=link.mtu,
        up=link.up,
        addresses=tuple(str(address) for address in list_addresses(pods, link)),
        host_interface=host_end,
        host_bridge=bridge,
    )


def _host_end(hosts: Netlink, link: links.KernelLink) -> tuple[str, str]:
    """Names of a veth's other end and of its bridge, if it is on the host: the two point at each other."""
    if not link.peer:
        return "", ""
    try:
        end = links.link_at(hosts, link.peer)
        if end.peer != link.index:
            return "", ""
        return end.name, links.link_at(hosts, end.master).name if end.master else ""
    except OSError:
        return "", ""


def _route(route: Route, names: dict[int, str]) -> RouteView:
    return RouteView(
        destination="default" if route.is_default else str(route.destination),
        gateway="" if route.gateway is None else str(route.gateway),
        interface=names[route.index],
    )
