"""The fake runtime with the networks of crib's Node service."""

# ruff: noqa: N802  # names are the service's own

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from crib.stubs.node.v1 import node_pb2 as node
from crib.stubs.node.v1 import node_pb2_grpc
from crib.stubs.runtime.v1 import api_pb2_grpc
from tests.unit.client.fake_runtime import FakeNode, FakeRuntime, World


@dataclass
class NetworkWorld(World):
    """What the fake answers, and what it was asked."""

    networks: list[node.Network] = field(default_factory=list)
    views: dict[str, node.InspectPodNetworkResponse] = field(default_factory=dict)
    """By the pod's id."""
    found: list[node.NetworkCheck] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    pods_attached: int = 0
    check_networks: list[node.CheckNetworksRequest] = field(default_factory=list)
    everything: list[bool] = field(default_factory=list)


class FakeNetworkNode(FakeNode):
    world: NetworkWorld

    async def ListNetworks(self, request: Any, context: Any) -> node.ListNetworksResponse:
        return node.ListNetworksResponse(networks=self.world.networks)

    async def InspectPodNetwork(self, request: Any, context: Any) -> node.InspectPodNetworkResponse:
        view = self.world.views.get(request.pod_sandbox_id)
        if view is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no pod {request.pod_sandbox_id}")
        assert view is not None
        return view

    async def CheckNetworks(self, request: Any, context: Any) -> AsyncIterator[node.NetworkCheck]:
        self.world.check_networks.append(request)
        for item in self.world.found:
            yield item

    async def CollectNetworkGarbage(self, request: Any, context: Any) -> node.CollectNetworkGarbageResponse:
        self.world.everything.append(request.everything)
        return node.CollectNetworkGarbageResponse(released=self.world.released)

    async def RemoveNetwork(self, request: Any, context: Any) -> node.RemoveNetworkResponse:
        self.world.calls.append("RemoveNetwork")
        if self.world.pods_attached:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"{self.world.pods_attached} pods are attached: 0001"
            )
        return node.RemoveNetworkResponse()


async def serve_networks(path: str, world: NetworkWorld) -> grpc.aio.Server:
    """Start it at a socket."""
    server = grpc.aio.server()
    api_pb2_grpc.add_RuntimeServiceServicer_to_server(FakeRuntime(world), server)
    node_pb2_grpc.add_NodeServicer_to_server(FakeNetworkNode(world), server)
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    return server
