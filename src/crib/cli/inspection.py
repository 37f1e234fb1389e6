"""`crib inspect`: everything that the runtime says of one thing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from crib.cli.options import Format
from crib.cli.output import as_dict, document
from crib.cli.session import CommandError
from crib.client import images, lookup
from crib.client.errors import Ambiguous, NotFound
from crib.stubs.runtime.v1.api_pb2 import (
    ContainerStatusRequest,
    ImageSpec,
    ImageStatusRequest,
    PodSandboxStatusRequest,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from crib.cli.options import InspectOptions
    from crib.cli.session import CliSession
    from crib.client import Connection


async def inspect(session: CliSession, options: InspectOptions) -> None:
    """Show a pod, a container or an image; what fits first in this order is meant."""
    if options.output is Format.TABLE:
        raise CommandError("inspect prints json or yaml only", exit_code=2)
    async with session.connect() as connection:
        found = await _look(connection, options.target, options.container)
    document(_opened(found), options.output)


async def _look(connection: Connection, target: str, container: str) -> Message:
    if container:
        named = await lookup.find_container(connection, target, container)
        return await _container(connection, named.container.id)
    try:
        pod = await lookup.find_pod(connection, target)
    except Ambiguous:
        raise
    except NotFound:
        return await _container_or_image(connection, target)
    request = PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
    return await connection.call(connection.runtime.PodSandboxStatus, request)


async def _container_or_image(connection: Connection, target: str) -> Message:
    try:
        found = await lookup.find_container(connection, target)
    except Ambiguous:
        raise
    except NotFound:
        try:
            image = await images.resolve(connection, target)
        except Ambiguous:
            raise
        except NotFound:
            raise NotFound(f"there is no pod, container or image {target!r}") from None
        request = ImageStatusRequest(image=ImageSpec(image=image.id), verbose=True)
        return await connection.call(connection.image.ImageStatus, request)
    return await _container(connection, found.container.id)


async def _container(connection: Connection, container_id: str) -> Message:
    request = ContainerStatusRequest(container_id=container_id, verbose=True)
    return await connection.call(connection.runtime.ContainerStatus, request)


def _opened(reply: Message) -> dict[str, Any]:
    """The reply as a document, with the JSON inside `info` opened."""
    found = as_dict(reply)
    found["info"] = {name: _parsed(text) for name, text in found.get("info", {}).items()}
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
