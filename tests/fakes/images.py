"""The port `Images` in memory: a registry and a store of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from crib.model.errors import InvalidRequest, NotFound
from crib.model.facts import LayerMounting
from crib.model.ids import Digest, ImageId
from crib.model.image import (
    FetchedImage,
    FilesystemUsage,
    ImageConfig,
    ImageReference,
    Layer,
    Progress,
    parse_reference,
)
from crib.ports import ProgressSink
from tests.fakes.failpoints import Failpoints


def digest_of(text: str) -> Digest:
    """A digest that stands for the text."""
    return Digest(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


def made_image(name: str, *layers: str, config: ImageConfig | None = None) -> FetchedImage:
    """An image with layers that are named by words."""
    return FetchedImage(
        id=ImageId(digest_of(f"config {name} {layers}")),
        config=config or ImageConfig(cmd=("sleep", "60")),
        layers=tuple(Layer(digest_of(layer), digest_of(f"blob {layer}"), 1000) for layer in layers),
        manifest_digest=digest_of(f"manifest {name} {layers}"),
    )


class FakeImages:
    """`publish` puts an image into the registry. Failpoints: pull, import_archive, sweep, usage."""

    def __init__(self) -> None:
        self.failpoints = Failpoints()
        self.layers: set[Digest] = set()
        self.downloaded: list[Digest] = []
        self.archives: dict[str, tuple[FetchedImage, ...]] = {}
        self.dismantled = False
        self.closed = False
        self._registry: dict[str, FetchedImage] = {}

    @property
    def mounting(self) -> LayerMounting:
        return LayerMounting("file", 512, True)

    def publish(self, name: str, image: FetchedImage) -> FetchedImage:
        """Make NAME[:TAG] of the registry this image."""
        reference = parse_reference(name)
        self._registry[str(reference)] = image
        self._registry[f"{reference.name}@{image.manifest_digest}"] = image
        return image

    async def pull(self, reference: ImageReference, progress: ProgressSink) -> FetchedImage:
        progress(Progress("resolving"))
        key = f"{reference.name}@{reference.digest}" if reference.digest else str(reference)
        image = self._registry.get(key)
        if image is None:
            await self.failpoints.reach("pull", str(reference))
            raise NotFound(f"{reference} is not in the registry")
        for layer in image.layers:
            self._fill(layer, progress)
        # The layers are on disk here and belong to no image yet: a sweep now would take them.
        await self.failpoints.reach("pull", str(reference))
        return image

    async def import_archive(self, path: str, progress: ProgressSink) -> Sequence[FetchedImage]:
        images = self.archives.get(path)
        if images is None:
            raise InvalidRequest(f"archive {path} cannot be opened", field="path")
        for image in images:
            for layer in image.layers:
                self._fill(layer, progress)
        await self.failpoints.reach("import_archive", path)
        return images

    def _fill(self, layer: Layer, progress: ProgressSink) -> None:
        progress(Progress("downloading", layer.diff_id, layer.size // 2, layer.size))
        if layer.diff_id not in self.layers:
            self.downloaded.append(layer.diff_id)
        self.layers.add(layer.diff_id)
        progress(Progress("done", layer.diff_id, layer.size, layer.size))

    async def sweep(self, keep: Collection[Digest]) -> Sequence[Digest]:
        await self.failpoints.reach("sweep")
        gone = sorted(self.layers - set(keep))
        self.layers.difference_update(gone)
        return gone

    async def usage(self) -> FilesystemUsage:
        await self.failpoints.reach("usage")
        return FilesystemUsage("/layers", 1000 * len(self.layers), len(self.layers), 1)

    async def writable_usage(self) -> FilesystemUsage:
        await self.failpoints.reach("writable_usage")
        return FilesystemUsage("/containers", 0, 0, 1)

    async def dismantle(self) -> None:
        await self.failpoints.reach("dismantle")
        self.dismantled = True

    async def close(self) -> None:
        await self.failpoints.reach("close")
        self.closed = True
