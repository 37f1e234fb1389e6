"""Pods' networks: list, inspect, check and repair them, and release leftovers.

Every call raises NotOffered if the runtime has no crib Node service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.stubs.node.v1.node_pb2 import (
    CheckNetworksRequest,
    CollectNetworkGarbageRequest,
    InspectPodNetworkRequest,
    InspectPodNetworkResponse,
    ListNetworksRequest,
    Network,
    NetworkCheck,
    RemoveNetworkRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from crib.client.connection import Connection

COLLECT_TIMEOUT = 10 * 60.0
"""Seconds that one collection may take: a plugin of each network is run for each pod that is gone."""


async def list_networks(connection: Connection) -> list[Network]:
    """The node's networks, those that pods are attached to first."""
    reply = await connection.call(connection.node.ListNetworks, ListNetworksRequest())
    return list(reply.networks)


async def inspect(connection: Connection, pod_id: str) -> InspectPodNetworkResponse:
    """A pod's network as the kernel has it now, by the pod's id or the beginning of it."""
    request = InspectPodNetworkRequest(pod_sandbox_id=pod_id)
    return await connection.call(connection.node.InspectPodNetwork, request)


def check(
    connection: Connection, pod_ids: Sequence[str] = (), *, repair: bool = False
) -> AsyncIterator[NetworkCheck]:
    """Compare pods' networks with how they were made. Without names it checks all ready pods.

    Yields a message for each pod. `repair` makes a damaged network again under the running containers.
    WrongState if a named pod is not ready or is on the host's network.
    """
    request = CheckNetworksRequest(pod_sandbox_ids=pod_ids, repair=repair)
    return connection.stream(connection.node.CheckNetworks, request)


async def collect(connection: Connection, *, everything: bool = False) -> list[str]:
    """Release what is held for pods that no longer exist; returns what was released, in words.

    `everything` includes what another runtime may hold in a shared network.
    """
    request = CollectNetworkGarbageRequest(everything=everything)
    reply = await connection.call(connection.node.CollectNetworkGarbage, request, timeout=COLLECT_TIMEOUT)
    return list(reply.released)


async def remove(connection: Connection) -> None:
    """Remove the built-in bridge and its rules. WrongState while a pod is attached."""
    await connection.call(connection.node.RemoveNetwork, RemoveNetworkRequest())
