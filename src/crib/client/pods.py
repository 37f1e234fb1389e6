"""A pod's whole life in a few calls: run, stop, remove."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crib.client import lookup
from crib.client.errors import ClientError
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_RUNNING,
    ContainerConfig,
    ContainerStatus,
    ContainerStatusRequest,
    CreateContainerRequest,
    PodSandboxConfig,
    PodSandboxStatus,
    PodSandboxStatusRequest,
    RemovePodSandboxRequest,
    RunPodSandboxRequest,
    StartContainerRequest,
    StopContainerRequest,
    StopPodSandboxRequest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.client.connection import Connection

RUN_TIMEOUT = 240.0
"""Seconds that a sandbox may take, its network included: a kubelet's own limit."""
STOP_MARGIN = 60.0
"""Seconds that a stop may take beyond the grace period."""


@dataclass(slots=True)
class Pod:
    """A sandbox that runs, and the ids of its containers by name, in the order in which they were made."""

    id: str
    config: PodSandboxConfig
    containers: dict[str, str] = field(default_factory=dict)


async def run_sandbox(connection: Connection, config: PodSandboxConfig, handler: str = "") -> Pod:
    """Make a sandbox without containers. `handler` is a RuntimeClass's, empty for the default one.

    A caller that is cancelled meanwhile leaves no sandbox behind: a runtime may finish what a client has
    begun and left, so its answer is awaited all the same, and the sandbox removed.
    """
    request = RunPodSandboxRequest(config=config, runtime_handler=handler)
    method = connection.runtime.RunPodSandbox
    running = asyncio.ensure_future(connection.call(method, request, timeout=RUN_TIMEOUT))
    try:
        reply = await asyncio.shield(running)
    except asyncio.CancelledError:
        with contextlib.suppress(ClientError):
            await discard(connection, (await running).pod_sandbox_id)
        raise
    return Pod(reply.pod_sandbox_id, config)


async def create_container(connection: Connection, pod: Pod, config: ContainerConfig) -> str:
    """Create a container in a pod and give its id."""
    request = CreateContainerRequest(pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)
    reply = await connection.call(connection.runtime.CreateContainer, request)
    pod.containers[config.metadata.name] = reply.container_id
    return reply.container_id


async def start_container(connection: Connection, container_id: str) -> None:
    """Run a created container's process."""
    await connection.call(connection.runtime.StartContainer, StartContainerRequest(container_id=container_id))


async def run(
    connection: Connection,
    config: PodSandboxConfig,
    containers: Sequence[ContainerConfig],
    handler: str = "",
) -> Pod:
    """Make a sandbox and its containers and start them, in order. The images must be on the node.

    If a step fails, everything that was made is removed before the error is raised.
    """
    pod = await run_sandbox(connection, config, handler)
    try:
        for container in containers:
            await start_container(connection, await create_container(connection, pod, container))
    except BaseException:
        await asyncio.shield(discard(connection, pod.id))
        raise
    return pod


async def container_status(connection: Connection, container_id: str) -> ContainerStatus:
    """A container's current status; NotFound if it does not exist."""
    request = ContainerStatusRequest(container_id=container_id)
    return (await connection.call(connection.runtime.ContainerStatus, request)).status


async def sandbox_status(connection: Connection, pod_id: str) -> PodSandboxStatus:
    """A sandbox's current status; NotFound if it does not exist."""
    request = PodSandboxStatusRequest(pod_sandbox_id=pod_id)
    return (await connection.call(connection.runtime.PodSandboxStatus, request)).status


async def addresses(connection: Connection, pod_id: str) -> tuple[str, ...]:
    """The pod's own addresses, its first one first; none on the host's network."""
    network = (await sandbox_status(connection, pod_id)).network
    return tuple(filter(None, (network.ip, *(more.ip for more in network.additional_ips))))


async def stop_container(connection: Connection, container_id: str, grace: int) -> None:
    """Stop a container: its stop signal, `grace` seconds, SIGKILL."""
    request = StopContainerRequest(container_id=container_id, timeout=grace)
    await connection.call(connection.runtime.StopContainer, request, timeout=grace + STOP_MARGIN)


async def stop(connection: Connection, pod_id: str, grace: int = 30) -> None:
    """Stop a pod's running containers, all at the same time, with `grace` seconds each, then its sandbox.

    The sandbox is stopped even when a container's stop failed; the first error is raised then.
    """
    running = [c.id for c in await lookup.containers(connection, pod_id) if c.state == CONTAINER_RUNNING]
    stops = (stop_container(connection, container_id, grace) for container_id in running)
    outcomes = await asyncio.gather(*stops, return_exceptions=True)
    await connection.call(connection.runtime.StopPodSandbox, StopPodSandboxRequest(pod_sandbox_id=pod_id))
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def remove(connection: Connection, pod_id: str) -> None:
    """Remove a sandbox with its containers, running or not. Fine when it is gone."""
    request = RemovePodSandboxRequest(pod_sandbox_id=pod_id)
    await connection.call(connection.runtime.RemovePodSandbox, request)


async def discard(connection: Connection, pod_id: str) -> ClientError | None:
    """Kill and remove a pod of which nothing is wanted any more; an error is given back, not raised."""
    try:
        await connection.call(connection.runtime.StopPodSandbox, StopPodSandboxRequest(pod_sandbox_id=pod_id))
        await remove(connection, pod_id)
    except ClientError as error:
        return error
    return None
