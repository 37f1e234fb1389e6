"""A fake runtime with an image, and short ways to fill it; shared by the tests of commands."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from crib.cli.session import CliSession
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.client.fake_runtime import World, serve

IMAGE = "localhost/demo:1"


@contextlib.asynccontextmanager
async def served(world: World, directory: Path, *, node: bool = True) -> AsyncIterator[CliSession]:
    """The fake at a socket; without `node` it is another project's runtime."""
    server = await serve(f"{directory}/s", world, node=node)
    try:
        yield CliSession(f"unix://{directory}/s", pods_dir=f"{directory}/pods")
    finally:
        await server.stop(None)


def add_pod(world: World, name: str, namespace: str = "default", *, ready: bool = True, **fields: Any) -> str:
    """A pod; its id. `fields` are labels and annotations."""
    pod_id = world.new_id()
    metadata = cri.PodSandboxMetadata(name=name, namespace=namespace, uid=f"uid-{name}")
    state = cri.SANDBOX_READY if ready else cri.SANDBOX_NOTREADY
    world.pods[pod_id] = cri.PodSandbox(
        id=pod_id, metadata=metadata, state=state, created_at=world.ids * 10**9, **fields
    )
    world.configs[pod_id] = cri.PodSandboxConfig(metadata=metadata, **fields)
    return pod_id


def add_container(
    world: World,
    pod_id: str,
    name: str,
    state: cri.ContainerState.ValueType = cri.CONTAINER_RUNNING,
    *,
    attempt: int = 0,
    image: str = IMAGE,
    **fields: object,
) -> str:
    """A container of the pod; its id. `fields` are of its status."""
    container_id = world.new_id()
    world.owner[container_id] = pod_id
    spec = cri.ImageSpec(image=image)
    metadata = cri.ContainerMetadata(name=name, attempt=attempt)
    world.container_configs[container_id] = cri.ContainerConfig(metadata=metadata, image=spec)
    world.containers[container_id] = cri.ContainerStatus(
        id=container_id,
        metadata=metadata,
        state=state,
        image=spec,
        image_id=next((i.id for i in world.images.values() if image in i.repo_tags), ""),
        created_at=world.ids * 10**9,
        **fields,  # type: ignore[arg-type]  # each test names fields of the message
    )
    return container_id
