"""Images: what is there, pulls that tell how far they are, imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.client.errors import Ambiguous, NotFound, NotOffered, RuntimeFailure
from crib.stubs.node.v1.node_pb2 import ImportImageRequest, ImportProgress, PullProgress, PullProgressRequest
from crib.stubs.runtime.v1.api_pb2 import (
    Image,
    ImageSpec,
    ImageStatusRequest,
    ListImagesRequest,
    PodSandboxConfig,
    PullImageRequest,
    RemoveImageRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from crib.client.connection import Connection

PULL_TIMEOUT = 60 * 60.0
"""Seconds that one pull may take."""
MIN_ID = 4
"""Characters that the beginning of an image's id needs at least."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A pull's end: the id of the image that is now here."""

    image_id: str


async def list_images(connection: Connection) -> list[Image]:
    """Every image of the node, by name."""
    reply = await connection.call(connection.image.ListImages, ListImagesRequest())
    return sorted(reply.images, key=lambda image: (list(image.repo_tags) or ["~"], image.id))


async def find(connection: Connection, name: str) -> Image | None:
    """The image of that name, digest reference or id; None when it is not here."""
    request = ImageStatusRequest(image=ImageSpec(image=name))
    reply = await connection.call(connection.image.ImageStatus, request)
    return reply.image if reply.HasField("image") else None


async def resolve(connection: Connection, name: str) -> Image:
    """As `find`, and also by the beginning of an id. Raises NotFound or Ambiguous."""
    image = await find(connection, name)
    if image is not None:
        return image
    short = name.removeprefix("sha256:")
    images = await list_images(connection)
    fitting = [i for i in images if len(short) >= MIN_ID and i.id.removeprefix("sha256:").startswith(short)]
    if not fitting:
        raise NotFound(f"there is no image {name!r} on this node")
    if len(fitting) > 1:
        ids = ", ".join(i.id.removeprefix("sha256:")[:12] for i in fitting)
        raise Ambiguous(f"{name!r} begins the ids of more than one image: {ids}")
    return fitting[0]


async def remove(connection: Connection, image_id: str) -> None:
    """Remove an image under all its names. Fine when it is gone."""
    request = RemoveImageRequest(image=ImageSpec(image=image_id))
    await connection.call(connection.image.RemoveImage, request)


async def pull(connection: Connection, name: str, sandbox: PodSandboxConfig | None = None) -> str:
    """Pull by the CRI alone, without news of its progress, and give the image's id."""
    request = PullImageRequest(image=ImageSpec(image=name, user_specified_image=name), sandbox_config=sandbox)
    reply = await connection.call(connection.image.PullImage, request, timeout=PULL_TIMEOUT)
    return reply.image_ref


async def pull_progress(connection: Connection, name: str) -> AsyncIterator[PullProgress | Pulled]:
    """Pull and tell how far it is; the last item is `Pulled`.

    A runtime without crib's Node service is asked through the CRI, and then that is the only item. A pull
    that fails raises RuntimeFailure with the daemon's words.
    """
    request = PullProgressRequest(image=name, start=True)
    try:
        async for progress in connection.stream(connection.node.PullImageProgress, request, PULL_TIMEOUT):
            yield progress
            if progress.error:
                raise RuntimeFailure(progress.error)
            if progress.finished:
                yield Pulled(progress.image_id)
                return
    except NotOffered:
        yield Pulled(await pull(connection, name))
        return
    raise RuntimeFailure(f"the pull of {name} ended without a result")


def import_progress(
    connection: Connection, path: str, names: Sequence[str] = ()
) -> AsyncIterator[ImportProgress]:
    """Import an archive (absolute path, as the daemon sees it); the message `done` holds the images."""
    request = ImportImageRequest(path=path, names=names)
    return connection.stream(connection.node.ImportImage, request, PULL_TIMEOUT)
