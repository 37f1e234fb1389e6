"""Whom a method is about: what a person types, or what another method returned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.client import lookup
from crib.client.specs import LOGS_ANNOTATION
from crib.client.views import ContainerInfo, PodContainer, PodInfo
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from typing import TypeAlias

    from crib.client.connection import Connection

    PodLike: TypeAlias = str | PodInfo | PodContainer
    """A pod: NAME, NAMESPACE/NAME, the beginning of an id, or what a method returned."""
    ContainerLike: TypeAlias = str | PodInfo | PodContainer | ContainerInfo
    """A container: its pod (see `Client.container`), the beginning of its id, or what a method returned."""


async def pod_id_of(connection: Connection, target: PodLike) -> str:
    """Asks the runtime for a name only. NotFound, Ambiguous."""
    if isinstance(target, str):
        return (await lookup.find_pod(connection, target)).id
    return target.pod.id if isinstance(target, PodContainer) else target.id


async def container_id_of(connection: Connection, target: ContainerLike, name: str = "") -> str:
    """The one called `name` of a pod; NotFound, Ambiguous."""
    if isinstance(target, ContainerInfo):
        return target.id
    if isinstance(target, PodContainer):
        if name in ("", target.container.name):
            return target.container.id
        target = target.pod
    text = target if isinstance(target, str) else target.id
    return (await lookup.find_container(connection, text, name)).container.id


def config_of(status: pb.PodSandboxStatus) -> pb.PodSandboxConfig:
    """What is known of a pod's configuration; a runtime has a copy of the whole."""
    return pb.PodSandboxConfig(
        metadata=status.metadata,
        labels=status.labels,
        annotations=status.annotations,
        log_directory=status.annotations.get(LOGS_ANNOTATION, ""),
        linux=pb.LinuxPodSandboxConfig(
            security_context=pb.LinuxSandboxSecurityContext(namespace_options=status.linux.namespaces.options)
        ),
    )
