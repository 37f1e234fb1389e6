"""crib's own Node service, on networks: messages of crib.v1 to values and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crib.api.translate import checks, limits
from crib.model.network import NetworkCheck, NetworkInfo, PodNetworkView
from crib.model.sandbox import SandboxRecord
from crib.stubs.node.v1 import node_pb2 as pb


@dataclass(frozen=True, slots=True)
class CheckNetworks:
    """Pods to check, all when none is named."""

    sandboxes: tuple[str, ...]
    repair: bool


def decode_inspect(message: pb.InspectPodNetworkRequest) -> str:
    return checks.identifier(message.pod_sandbox_id, "pod_sandbox_id")


def decode_check(message: pb.CheckNetworksRequest) -> CheckNetworks:
    wanted = tuple(checks.at_most(message.pod_sandbox_ids, limits.MAX_PODS, "pod_sandbox_ids"))
    for number, text in enumerate(wanted):
        checks.identifier(text, f"pod_sandbox_ids[{number}]")
    return CheckNetworks(wanted, message.repair)


def decode_collect(message: pb.CollectNetworkGarbageRequest) -> bool:
    return message.everything


def encode_networks(found: Sequence[NetworkInfo]) -> pb.ListNetworksResponse:
    return pb.ListNetworksResponse(
        networks=[
            pb.Network(
                name=network.name,
                kind=network.kind,
                source=network.source,
                interface=network.interface,
                attached=network.attached,
                version=network.version,
                plugins=[
                    pb.NetworkPlugin(
                        type=plugin.type,
                        path=plugin.path,
                        versions=plugin.versions,
                        capabilities=plugin.capabilities,
                    )
                    for plugin in network.plugins
                ],
                subnets=network.subnets,
                gateways=network.gateways,
                mtu=network.mtu,
                handlers=network.handlers,
                problem=network.problem,
            )
            for network in found
        ]
    )


def encode_view(record: SandboxRecord, netns: str, view: PodNetworkView) -> pb.InspectPodNetworkResponse:
    meta = record.config.metadata
    return pb.InspectPodNetworkResponse(
        pod_sandbox_id=record.id,
        pod=f"{meta.namespace}/{meta.name}",
        host_network=record.config.host_network,
        networks=view.networks,
        network_interfaces=view.network_interfaces,
        addresses=record.network.addresses if record.network else (),
        interfaces=[
            pb.PodInterface(
                name=interface.name,
                mac=interface.mac,
                mtu=interface.mtu,
                up=interface.up,
                addresses=interface.addresses,
                host_interface=interface.host_interface,
                host_bridge=interface.host_bridge,
            )
            for interface in view.interfaces
        ],
        routes=[
            pb.PodRoute(destination=route.destination, gateway=route.gateway, interface=route.interface)
            for route in view.routes
        ],
        forwards=[
            pb.PodForward(
                protocol=forward.protocol,
                host_address=forward.host_address,
                host_port=forward.host_port,
                pod_port=forward.pod_port,
            )
            for forward in view.forwards
        ],
        ingress_rate=view.ingress_rate,
        egress_rate=view.egress_rate,
        netns=netns,
    )


def encode_check(found: NetworkCheck) -> pb.NetworkCheck:
    return pb.NetworkCheck(
        pod_sandbox_id=found.sandbox,
        pod=found.pod,
        problem=found.problem,
        repaired=found.repaired,
        repair_error=found.repair_error,
    )
