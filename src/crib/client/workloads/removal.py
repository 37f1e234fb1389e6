"""The end of a pod that was made from a manifest: its grace period, its removal, and that of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.client import lookup
from crib.client import pods as client_pods
from crib.client.workloads import files, keeping
from crib.manifest.behaviour import DEFAULT_GRACE
from crib.manifest.container import GRACE
from crib.stubs.runtime.v1.api_pb2 import SANDBOX_READY

if TYPE_CHECKING:
    from crib.client.connection import Connection
    from crib.manifest.plan import Dirs
    from crib.stubs.runtime.v1.api_pb2 import PodSandbox

MAX_GRACE = 24 * 3600
"""Seconds of a grace period that are believed."""


async def grace_of(connection: Connection, pod: PodSandbox) -> int:
    """The pod's grace period in seconds, from its containers' annotations."""
    for container in await lookup.containers(connection, pod.id):
        text = container.annotations.get(GRACE, "")
        if text.isdecimal():
            return min(int(text), MAX_GRACE)
    return DEFAULT_GRACE


async def remove_pod(connection: Connection, pod: PodSandbox, dirs: Dirs) -> None:
    """Kill and remove a pod, then its files on the node. It is kept up no longer."""
    await keeping.forget(connection, pod.metadata.uid)
    if pod.state == SANDBOX_READY:
        await client_pods.stop(connection, pod.id, grace=0)
    await client_pods.remove(connection, pod.id)
    files.remove(dirs, pod.metadata.uid)
