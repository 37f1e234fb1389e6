"""What can be said of CNI networks and a pod's part in them, and whether the kernel has what ADD made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any

from crib.backends.network.cni.commands import result_of
from crib.backends.network.cni.conf_dir import FoundNetwork
from crib.backends.network.cni.kept_results import Kept
from crib.backends.network.cni.plugins import Plugins
from crib.backends.network.interfaces import pod_interfaces
from crib.model.errors import CribError
from crib.model.network import (
    ForwardView,
    InterfaceView,
    NetworkInfo,
    NetworkPlugin,
    PodNetworkView,
)
from crib.ports.networks import PodNetwork
from crib.wire import cni

_ANY_ADDRESS = frozenset({"", str(IPv4Address(0)), str(IPv6Address(0))})


@dataclass(frozen=True, slots=True)
class NetworkPlace:
    """Where a network stands among those of the node; all empty for one whose file is gone."""

    interface: str = ""
    handler: str = ""
    """The handler's directory that it is of."""
    problem: str = ""


async def network_info(
    plugins: Plugins, network: FoundNetwork, place: NetworkPlace, attached: int, ranges: Sequence[str]
) -> NetworkInfo:
    """What there is to know of a network."""
    conf = network.conf
    pools = [*_pools(conf)]
    if any("ipRanges" in plugin.capabilities for plugin in conf.plugins):
        pools = [*({"subnet": subnet} for subnet in ranges), *pools]
    return NetworkInfo(
        name=conf.name,
        kind="cni",
        source=network.path,
        interface=place.interface,
        attached=attached,
        version=conf.version,
        plugins=tuple([await _plugin(plugins, plugin, conf.version) for plugin in conf.plugins]),
        subnets=tuple(dict.fromkeys(_texts(pools, "subnet"))),
        gateways=tuple(dict.fromkeys(_texts(pools, "gateway"))),
        mtu=next((mtu for plugin in conf.plugins if isinstance(mtu := plugin.raw.get("mtu"), int)), 0),
        handlers=(place.handler,) if place.handler else (),
        problem=place.problem,
    )


async def pod_view(pod: PodNetwork, kept: Sequence[Kept]) -> PodNetworkView:
    """The pod's interfaces and routes as the kernel has them, the rest as plugins were told."""
    interfaces, routes = await pod_interfaces(pod)
    rates: Mapping[str, int] = next(
        (one.runtime_config["bandwidth"] for one in kept if one.grants("bandwidth")), {}
    )
    return PodNetworkView(
        networks=tuple(one.network.name for one in kept),
        network_interfaces=tuple(one.interface if _gives_interface(one) else "" for one in kept),
        interfaces=interfaces,
        routes=routes,
        forwards=tuple(
            ForwardView(
                protocol=port["protocol"],
                host_address="*" if port["hostIP"] in _ANY_ADDRESS else port["hostIP"],
                host_port=port["hostPort"],
                pod_port=port["containerPort"],
            )
            for one in kept
            if one.grants("portMappings")
            for port in one.runtime_config["portMappings"]
        ),
        ingress_rate=rates.get("ingressRate", 0),
        egress_rate=rates.get("egressRate", 0),
    )


async def missing_in_kernel(pod: PodNetwork, kept: Iterable[Kept]) -> str:
    """What a pod's namespace lacks of the results of ADD; empty if nothing.

    This holds for all networks: those too whose plugins cannot CHECK.
    """
    interfaces, _ = await pod_interfaces(pod)
    there = {interface.name: interface for interface in interfaces}
    return "; ".join(problem for one in kept for problem in _missing(there, one))


def _missing(there: Mapping[str, InterfaceView], kept: Kept) -> Iterator[str]:
    name = kept.network.name
    if (result := result_of(kept)) is None:
        yield f"network {name}: no result of ADD is kept"
        return
    if not _gives_interface(kept):
        return
    addresses = [ip_interface(text).ip for text in result.addresses_of(kept.interface)]
    interface = there.get(kept.interface)
    if interface is None:
        yield f"network {name}: interface {kept.interface} is gone"
        return
    if not addresses:
        return
    if not interface.up:
        yield f"network {name}: interface {kept.interface} is down"
    has = {ip_interface(text).ip for text in interface.addresses}
    for address in addresses:
        if address not in has:
            yield f"network {name}: interface {kept.interface} has lost its address {address}"


def _gives_interface(kept: Kept) -> bool:
    """Whether ADD reported one, or is not known to have ended: some networks are a device, or a rule."""
    result = result_of(kept)
    if result is None:
        return True
    told = any(one.sandbox and one.name == kept.interface for one in result.interfaces)
    return told or bool(result.addresses_of(kept.interface))


async def _plugin(plugins: Plugins, plugin: cni.Plugin, version: str) -> NetworkPlugin:
    path = ""
    versions: tuple[str, ...] = ()
    with contextlib.suppress(CribError):  # the network's problem says so
        path = await plugins.find(plugin.type)
        versions = await plugins.versions(plugin.type, version)
    return NetworkPlugin(plugin.type, path, versions, tuple(sorted(plugin.capabilities)))


def _pools(network: cni.NetworkConf) -> Iterator[Mapping[str, Any]]:
    """The ranges in plugins' ipam keys, as host-local has them: one, or a list of lists."""
    for plugin in network.plugins:
        ipam = plugin.raw.get("ipam")
        if isinstance(ipam, dict):
            yield ipam
            for group in _list(ipam.get("ranges")):
                yield from (pool for pool in _list(group) if isinstance(pool, dict))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(pools: Iterable[Mapping[str, Any]], key: str) -> Iterator[str]:
    return (pool[key] for pool in pools if isinstance(pool.get(key), str))
