"""New attempts: a container or a pod again, with the configuration that it has.

The CRI starts a container once. What has exited is made anew under the next number, as a kubelet does it. The
configuration comes from the runtime's verbose status: crib's and containerd's has it, CRI-O's does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import posixpath
from typing import TYPE_CHECKING, Any, TypeVar

from crib.client import events, lookup, pods
from crib.client.errors import NotOffered, PodFailure, WrongState
from crib.client.plain_messages import from_plain
from crib.manifest.plan import INIT_CONTAINER
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_CREATED,
    CONTAINER_EXITED,
    SANDBOX_READY,
    Container,
    ContainerConfig,
    ContainerStatusRequest,
    LinuxContainerResources,
    PodSandboxConfig,
    PodSandboxStatusRequest,
    RemoveContainerRequest,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from crib.client.connection import Connection
    from crib.stubs.runtime.v1.api_pb2 import PodSandbox

_Kind = TypeVar("_Kind", bound="Message")


async def container_config(connection: Connection, container_id: str) -> ContainerConfig:
    """What the container was made from, with the limits in force. NotOffered if the runtime does not tell."""
    request = ContainerStatusRequest(container_id=container_id, verbose=True)
    reply = await connection.call(connection.runtime.ContainerStatus, request)
    config = _config_in(connection, reply.info, ContainerConfig)
    if reply.status.resources.HasField("linux"):
        config.linux.resources.MergeFrom(reply.status.resources.linux)
    return config


async def sandbox_config(connection: Connection, pod_id: str) -> PodSandboxConfig:
    """What the sandbox was made from, with the limits in force. NotOffered if the runtime does not tell."""
    request = PodSandboxStatusRequest(pod_sandbox_id=pod_id, verbose=True)
    reply = await connection.call(connection.runtime.PodSandboxStatus, request)
    config = _config_in(connection, reply.info, PodSandboxConfig)
    if limits := _part(reply.info, "resources"):
        config.linux.resources.CopyFrom(from_plain(limits, LinuxContainerResources))
    return config


def _config_in(connection: Connection, info: Any, kind: type[_Kind]) -> _Kind:
    with contextlib.suppress(ValueError, AttributeError):
        if found := _part(info, "config"):
            return from_plain(found, kind)
    raise NotOffered(
        f"the runtime at {connection.endpoint} does not tell what it was made from (no config in its verbose "
        "status), so it cannot be made again; make it anew from its manifest"
    )


def _part(info: Any, name: str) -> Any:
    """Of the verbose status; None without it. ValueError, AttributeError."""
    return json.loads(info.get("info", "{}")).get(name)


async def again(connection: Connection, pod: PodSandbox, container: Container) -> str:
    """Make the next attempt of a container that has exited, and start it; its id.

    The attempt before stays, for its log and its exit code; those before that are removed.
    """
    config, sandbox = await asyncio.gather(
        container_config(connection, container.id), sandbox_config(connection, pod.id)
    )
    own = [
        one
        for one in await lookup.containers(connection, pod.id)
        if one.metadata.name == container.metadata.name
    ]
    _number(config, max(one.metadata.attempt for one in (*own, container)) + 1)
    made = await pods.create_container(connection, pods.Pod(pod.id, sandbox), config)
    await pods.start_container(connection, made)
    for one in own:
        if one.id != container.id and one.state == CONTAINER_EXITED:
            request = RemoveContainerRequest(container_id=one.id)
            await connection.call(connection.runtime.RemoveContainer, request)
    return made


def _number(config: ContainerConfig, attempt: int) -> None:
    """Its place among the attempts, also in the name of its log, as a kubelet names it (NAME/0.log)."""
    directory, name = posixpath.split(config.log_path)
    if name == f"{config.metadata.attempt}.log":
        config.log_path = posixpath.join(directory, f"{attempt}.log")
    config.metadata.attempt = attempt


async def start_container(connection: Connection, pod: PodSandbox, container: Container) -> str:
    """Start a created container, or the next attempt of one that exited; its id. WrongState if it runs."""
    if container.state == CONTAINER_CREATED:
        await pods.start_container(connection, container.id)
        return container.id
    if container.state != CONTAINER_EXITED:
        raise WrongState(
            f"container {lookup.container_label(container, [pod])} is {lookup.state_of(container)}"
        )
    if pod.state != SANDBOX_READY:
        raise WrongState(f"pod {lookup.pod_label(pod)} is stopped; start the pod instead")
    return await again(connection, pod, container)


async def start_pod(connection: Connection, pod: PodSandbox) -> tuple[str, int]:
    """Start what of the pod does not run, but for finished init containers.

    Returns the pod's id and how many containers were started. A stopped sandbox cannot be started: the pod
    gets a new one under the next number, and its init containers run again.
    """
    if pod.state != SANDBOX_READY:
        return await pod_again(connection, pod)
    waiting = [
        one
        for one in lookup.latest(await lookup.containers(connection, pod.id)).values()
        if one.state == CONTAINER_CREATED or (one.state == CONTAINER_EXITED and not lookup.is_init(one))
    ]
    for container in waiting:
        await start_container(connection, pod, container)
    return pod.id, len(waiting)


async def pod_again(connection: Connection, pod: PodSandbox) -> tuple[str, int]:
    """A new sandbox with new attempts of all containers in place of a stopped one, which is removed then.

    When a container cannot be started the new sandbox is removed, and the stopped one stays as it was.
    """
    sandbox = await sandbox_config(connection, pod.id)
    sandbox.metadata.attempt = pod.metadata.attempt + 1
    old = list(lookup.latest(await lookup.containers(connection, pod.id)).values())
    configs = [await container_config(connection, container.id) for container in old]
    made = await pods.run_sandbox(connection, sandbox, pod.runtime_handler)
    try:
        for config in configs:
            _number(config, config.metadata.attempt + 1)
            container_id = await pods.create_container(connection, made, config)
            await pods.start_container(connection, container_id)
            if INIT_CONTAINER in config.annotations:
                await _finished(connection, container_id, config.metadata.name)
    except BaseException:
        await asyncio.shield(pods.discard(connection, made.id))
        raise
    await pods.remove(connection, pod.id)
    return made.id, len(configs)


async def _finished(connection: Connection, container_id: str, name: str) -> None:
    status = await events.wait_exited(connection, container_id)
    if status.exit_code != 0:
        raise PodFailure(f"init container {name} exited with {status.exit_code}")
