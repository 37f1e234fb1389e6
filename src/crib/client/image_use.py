"""Who uses an image: the containers that were made from it, or that mount it as a volume.

Works with any CRI runtime. A runtime keeps what its containers need, so removing a used image breaks none of
them; but the image is gone for the next one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.client import lookup
from crib.client.errors import NotFound
from crib.client.pods import container_status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crib.client.connection import Connection
    from crib.stubs.runtime.v1.api_pb2 import Container, Image, PodSandbox

AT_ONCE = 16
"""Status calls in flight: enough to hide their latency, few enough to leave the runtime to others."""


@dataclass(frozen=True, slots=True)
class ImageUser:
    """A container, its pod (None when that is gone meanwhile), and every name it knows its images by."""

    container: Container
    pod: PodSandbox | None
    references: frozenset[str]

    @property
    def label(self) -> str:
        """NAMESPACE/POD/CONTAINER."""
        pod = self.pod
        where = f"{pod.metadata.namespace}/{pod.metadata.name}" if pod else self.container.pod_sandbox_id[:12]
        return f"{where}/{self.container.metadata.name}"


class ImageUsers:
    """All containers of the node at one moment, by their images."""

    def __init__(self, users: Iterable[ImageUser]) -> None:
        self._users = tuple(users)

    def of(self, image: Image) -> list[ImageUser]:
        """Those that use this image, the oldest first."""
        names = {image.id, *image.repo_tags, *image.repo_digests}
        return [user for user in self._users if not names.isdisjoint(user.references)]


async def image_users(connection: Connection) -> ImageUsers:
    """Look at every container, and ask for the image volumes of each."""
    pods, containers = await asyncio.gather(lookup.pods(connection), lookup.containers(connection))
    by_id = {pod.id: pod for pod in pods}
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(container: Container) -> ImageUser:
        async with gate:
            volumes = await _image_volumes(connection, container.id)
        own = (container.image_id, container.image_ref, container.image.image)
        references = frozenset(name for name in (*own, *volumes) if name)
        return ImageUser(container, by_id.get(container.pod_sandbox_id), references)

    return ImageUsers(await asyncio.gather(*map(one, containers)))


async def _image_volumes(connection: Connection, container_id: str) -> list[str]:
    try:
        status = await container_status(connection, container_id)
    except NotFound:
        return []  # removed since the list was made
    return [mount.image.image for mount in status.mounts if mount.HasField("image")]
