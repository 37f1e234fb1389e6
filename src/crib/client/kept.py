"""Pods that crib keeps up without a kubelet. Every call raises NotOffered from another runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.stubs.node.v1.node_pb2 import (
    ForgetKeptPodRequest,
    KeepPodRequest,
    KeptPod,
    ListKeptPodsRequest,
    ListKeptPodsResponse,
    WantKeptPodRequest,
)

if TYPE_CHECKING:
    from crib.client.connection import Connection


async def keep(connection: Connection, request: KeepPodRequest) -> None:
    """Keep a pod up from now on. WrongState where the daemon's configuration forbids it."""
    await connection.call(connection.node.KeepPod, request)


async def want(connection: Connection, pod: KeptPod, *, run: bool, grace: int | None = None) -> None:
    """Have it run (anew), or stop with `grace` seconds; `ListKeptPods` tells when that is done. NotFound."""
    request = WantKeptPodRequest(namespace=pod.namespace, name=pod.name, run=run)
    if grace is not None:
        request.grace_seconds = grace
    await connection.call(connection.node.WantKeptPod, request)


async def forget(connection: Connection, pod: KeptPod) -> None:
    """Keep it up no longer; what runs of it goes on. NotFound."""
    request = ForgetKeptPodRequest(namespace=pod.namespace, name=pod.name)
    await connection.call(connection.node.ForgetKeptPod, request)


async def everything(connection: Connection) -> ListKeptPodsResponse:
    """All, and why nobody keeps them up if that is so."""
    return await connection.call(connection.node.ListKeptPods, ListKeptPodsRequest())
