"""What both kinds of network do inside a pod's namespace: loopback, and counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from crib.host import links
from crib.host.namespaces import run_in_namespace_async
from crib.host.netlink import Netlink
from crib.model.errors import Broken
from crib.model.stats import InterfaceUsage
from crib.ports import PodNetwork

T = TypeVar("T")

POD_INTERFACE: Final = "eth0"
"""The name that Kubernetes expects of a pod's first interface."""


async def bring_loopback_up(pod: PodNetwork) -> None:
    """Bring `lo` up in the pod's namespace. Broken if that cannot be done."""
    try:
        await _inside(pod, links.set_loopback_up)
    except OSError as error:
        raise Broken(f"bring loopback of pod {pod.id} up: {error.strerror} ({error.filename})") from error


async def interface_usage(pod: PodNetwork, interface: str = POD_INTERFACE) -> Sequence[InterfaceUsage]:
    """Counters of one interface of the pod; nothing if the namespace or the interface is gone."""
    try:
        counters = await _inside(pod, lambda netlink: links.link_statistics(netlink, interface))
    except OSError:
        return ()
    return (
        InterfaceUsage(
            name=counters.name,
            rx_bytes=counters.rx_bytes,
            rx_errors=counters.rx_errors,
            tx_bytes=counters.tx_bytes,
            tx_errors=counters.tx_errors,
        ),
    )


async def _inside(pod: PodNetwork, work: Callable[[Netlink], T]) -> T:
    def run() -> T:
        with Netlink() as netlink:
            return work(netlink)

    return await run_in_namespace_async(pod.netns, "net", run)
