"""Images: lists, pulls with progress, imports and exports, registries, and checks of the disk.

`list_images`, `find`, `resolve`, `remove` and `pull` work with any CRI runtime. So does `pull_progress`, but
without the progress of layers. `watch`, `explain`, `check`, `import_progress` and `export` need crib's Node
service and raise NotOffered without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.client.errors import Ambiguous, ImageNotFound, NotOffered, RuntimeFailure, failed_pull
from crib.stubs.node.v1.node_pb2 import (
    CheckImagesRequest,
    CheckProgress,
    Credentials,
    ExplainRegistryRequest,
    ExplainRegistryResponse,
    ExportImagesRequest,
    ImportImageRequest,
    ImportProgress,
    PullProgress,
    PullProgressRequest,
)
from crib.stubs.runtime.v1.api_pb2 import (
    AuthConfig,
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
EXPORT_TIMEOUT = 60 * 60.0
"""Seconds that one export may take."""
PLATFORM_ANNOTATION = "io.crib.platform"
"""Annotation of ImageSpec: OS/ARCHITECTURE[/VARIANT] to pull. Only crib knows it."""
MIN_ID = 4
"""Minimum characters for the beginning of an image's id."""


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
    """Like `find`, and also by the beginning of an id. Raises ImageNotFound or Ambiguous."""
    image = await find(connection, name)
    if image is not None:
        return image
    short = name.removeprefix("sha256:")
    images = await list_images(connection)
    fitting = [i for i in images if len(short) >= MIN_ID and i.id.removeprefix("sha256:").startswith(short)]
    if not fitting:
        raise ImageNotFound(f"there is no image {name!r} on this node")
    if len(fitting) > 1:
        ids = ", ".join(i.id.removeprefix("sha256:")[:12] for i in fitting)
        raise Ambiguous(f"{name!r} begins the ids of more than one image: {ids}")
    return fitting[0]


async def remove(connection: Connection, image_id: str) -> None:
    """Remove an image under all its names. Fine when it is gone."""
    request = RemoveImageRequest(image=ImageSpec(image=image_id))
    await connection.call(connection.image.RemoveImage, request)


async def pull(
    connection: Connection,
    name: str,
    sandbox: PodSandboxConfig | None = None,
    auth: AuthConfig | None = None,
    platform: str = "",
) -> str:
    """Pull by the CRI alone, without progress, and return the image's id.

    `auth` goes to the image's registry instead of the runtime's own credentials. `platform` is
    OS/ARCHITECTURE[/VARIANT]; it travels as an annotation that only crib honours. Empty: the node's own.
    """
    annotations = {PLATFORM_ANNOTATION: platform} if platform else {}
    image = ImageSpec(image=name, user_specified_image=name, annotations=annotations)
    request = PullImageRequest(image=image, sandbox_config=sandbox, auth=auth)
    reply = await connection.call(connection.image.PullImage, request, timeout=PULL_TIMEOUT)
    return reply.image_ref


async def pull_progress(
    connection: Connection, name: str, auth: AuthConfig | None = None, platform: str = ""
) -> AsyncIterator[PullProgress | Pulled]:
    """Pull and report progress; the last item is `Pulled`. `auth` and `platform` are as for `pull`.

    Without crib's Node service the CRI is used, and `Pulled` is the only item (NotOffered if a `platform` is
    named). The same holds for an `auth` with `auth` or `server_address`, which the Node service does not
    accept. A failed pull raises ClientError with the daemon's words.
    """
    if auth is not None and (auth.auth or auth.server_address):
        yield Pulled(await pull(connection, name, None, auth, platform))
        return
    request = PullProgressRequest(image=name, start=True, credentials=_credentials(auth), platform=platform)
    try:
        async for item in _follow(connection, request):
            yield item
    except NotOffered:
        if platform:
            raise NotOffered(
                f"the runtime at {connection.endpoint} takes no platform: it pulls for its own"
            ) from None
        yield Pulled(await pull(connection, name, None, auth))


def watch(connection: Connection, name: str) -> AsyncIterator[PullProgress | Pulled]:
    """Follow a pull of another client, like `pull_progress`. NotFound if there is none."""
    return _follow(connection, PullProgressRequest(image=name))


async def _follow(
    connection: Connection, request: PullProgressRequest
) -> AsyncIterator[PullProgress | Pulled]:
    async for progress in connection.stream(connection.node.PullImageProgress, request, PULL_TIMEOUT):
        yield progress
        if progress.error:
            raise failed_pull(progress.error_code, progress.error)
        if progress.finished:
            yield Pulled(progress.image_id)
            return
    raise RuntimeFailure(f"the pull of {request.image} ended without a result")


def _credentials(auth: AuthConfig | None) -> Credentials | None:
    if auth is None:
        return None
    return Credentials(
        username=auth.username,
        password=auth.password,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
    )


async def explain(connection: Connection, name: str) -> ExplainRegistryResponse:
    """Which hosts would be asked for an image, in this order, with what and why. Contacts no host.

    InvalidRequest if `name` is no image name, or its image is blocked.
    """
    return await connection.call(connection.node.ExplainRegistry, ExplainRegistryRequest(image=name))


def check(
    connection: Connection, names: Sequence[str] = (), *, repair: bool = False
) -> AsyncIterator[CheckProgress]:
    """Compare layers on disk with what was written. Without `names` it checks all images.

    Yields a message for each layer, and one with `finished` set at the end. `repair` fetches damaged layers
    again. May take as long as reading every layer.
    """
    return connection.stream(connection.node.CheckImages, CheckImagesRequest(images=names, repair=repair))


async def export(connection: Connection, path: str, names: Sequence[str], archive_format: str = "oci") -> int:
    """Write images to a new archive (absolute path, as the daemon sees it); its size in bytes.

    `archive_format` is `oci` (an OCI image layout in a tar) or `docker` (as `docker save` writes).
    """
    request = ExportImagesRequest(path=path, images=names, format=archive_format)
    reply = await connection.call(connection.node.ExportImages, request, timeout=EXPORT_TIMEOUT)
    return reply.size_bytes


async def full_name(connection: Connection, name: str) -> str:
    """`name` itself where the runtime knows it, the full id where it is the beginning of one.

    Raises ImageNotFound or Ambiguous as `resolve` does.
    """
    image = await resolve(connection, name)
    return image.id if image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:")) else name


def import_progress(
    connection: Connection, path: str, names: Sequence[str] = ()
) -> AsyncIterator[ImportProgress]:
    """Import an archive (absolute path, as the daemon sees it); the message `done` holds the images."""
    request = ImportImageRequest(path=path, names=names)
    return connection.stream(connection.node.ImportImage, request, PULL_TIMEOUT)
