"""What OCI spec a container has or would get, and where its fields are from; only crib itself can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.stubs.node.v1.node_pb2 import ExplainContainerRequest, ExplainContainerResponse

if TYPE_CHECKING:
    from crib.client.connection import Connection
    from crib.stubs.runtime.v1.api_pb2 import ContainerConfig, PodSandboxConfig


async def explain_container(connection: Connection, container_id: str) -> ExplainContainerResponse:
    """Of a container that there is, by its id or the beginning of it."""
    request = ExplainContainerRequest(container_id=container_id)
    return await connection.call(connection.node.ExplainContainer, request)


async def explain_plan(
    connection: Connection, sandbox: PodSandboxConfig, config: ContainerConfig, handler: str = ""
) -> ExplainContainerResponse:
    """Of a container that RunPodSandbox and CreateContainer would make of these; nothing is made.

    NotFound when the image is not here.
    """
    request = ExplainContainerRequest(sandbox_config=sandbox, config=config, runtime_handler=handler)
    return await connection.call(connection.node.ExplainContainer, request)
