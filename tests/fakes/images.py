"""The port `Images` in memory: a registry and a store of layers."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from crib.model.disk import StoredLayers
from crib.model.errors import InvalidRequest, NotFound
from crib.model.facts import LayerMounting, WorkerFigures
from crib.model.ids import Digest, ImageId
from crib.model.image import (
    DiskSpace,
    ExportedImage,
    FetchedImage,
    FilesystemUsage,
    ImageConfig,
    ImageReference,
    Layer,
    Progress,
    PullOrder,
    SuspectImage,
    parse_reference,
)
from crib.model.registry import RegistryHost
from crib.model.settings import Settings
from crib.ports.images import ProgressSink
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
    """`publish` puts an image into the registry.

    Failpoints: the methods' names. Layers in `damaged` fail their check.
    """

    def __init__(self) -> None:
        self.failpoints = Failpoints()
        self.worker = WorkerFigures()
        self.layers: set[Digest] = set()
        self.downloaded: list[Digest] = []
        self.damaged: set[Digest] = set()
        self.orders: list[PullOrder] = []
        self.resolved: list[PullOrder] = []
        self.exported: list[tuple[str, tuple[ExportedImage, ...], str]] = []
        self.suspects: list[SuspectImage] = []
        self.verdicts: dict[str, str] = {}
        """Reference to why it is refused."""
        self.disk = DiskSpace(100, 90)
        self.disk_after_sweep: DiskSpace | None = None
        self.archives: dict[str, tuple[FetchedImage, ...]] = {}
        self.dismantled = False
        self.closed = False
        self.adapted: Settings | None = None
        """What a reload gave last."""
        self._exporting: Counter[Digest] = Counter()
        self._registry: dict[str, FetchedImage] = {}

    def adapt(self, settings: Settings) -> None:
        self.adapted = settings

    @property
    def mounting(self) -> LayerMounting:
        return LayerMounting("file", 512, True)

    def publish(self, name: str, image: FetchedImage) -> FetchedImage:
        """Make NAME[:TAG] of the registry this image."""
        reference = parse_reference(name)
        self._registry[str(reference)] = image
        self._registry[f"{reference.name}@{image.manifest_digest}"] = image
        return image

    async def hosts(self, order: PullOrder) -> Sequence[RegistryHost]:
        reference = order.reference
        if reference.registry.startswith("blocked."):
            raise InvalidRequest(f"registry {reference.registry} is blocked", field="image.image")
        url = f"https://{reference.registry}/v2"
        return (RegistryHost(url, reference.repository, "the registry itself", is_origin=True),)

    async def resolve(self, order: PullOrder, progress: ProgressSink) -> FetchedImage:
        progress(Progress("resolving"))
        await self.failpoints.reach("resolve", str(order.reference))
        self.resolved.append(order)
        image = self._found(order.reference)
        if image is None:
            raise NotFound(f"{order.reference} is not in the registry")
        return replace(image, layers=())

    def _found(self, reference: ImageReference) -> FetchedImage | None:
        key = f"{reference.name}@{reference.digest}" if reference.digest else str(reference)
        return self._registry.get(key)

    async def pull(self, order: PullOrder, progress: ProgressSink) -> FetchedImage:
        progress(Progress("resolving"))
        self.orders.append(order)
        reference = order.reference
        image = self._found(reference)
        if image is None:
            await self.failpoints.reach("pull", str(reference))
            raise NotFound(f"{reference} is not in the registry")
        self.layers -= order.again
        for layer in image.layers:
            self._fill(layer, progress)
        self.damaged -= order.again
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

    async def export(self, path: str, images: Sequence[ExportedImage], archive_format: str) -> int:
        wanted = [layer.diff_id for image in images for layer in image.record.layers]
        self._exporting.update(wanted)
        try:
            await self.failpoints.reach("export", path)
        finally:
            self._exporting.subtract(wanted)
        if os.path.lexists(path):
            raise InvalidRequest(f"{path} exists", field="path")
        self.exported.append((path, tuple(images), archive_format))
        return 1000

    async def check(self, layer: Layer) -> str:
        await self.failpoints.reach("check")
        if layer.diff_id not in self.layers:
            return "is not on disk"
        return "its data has another digest" if layer.diff_id in self.damaged else ""

    async def verify(self, suspect: SuspectImage) -> str:
        await self.failpoints.reach("verify", str(suspect.reference))
        self.suspects.append(suspect)
        if suspect.keys and not suspect.signatures:
            return "it has no signature"
        return self.verdicts.get(str(suspect.reference), "")

    async def space(self) -> DiskSpace:
        await self.failpoints.reach("space")
        return self.disk

    async def present(self) -> Collection[Digest]:
        await self.failpoints.reach("present")
        return frozenset(self.layers)

    async def sweep(self, keep: Collection[Digest], *, dry: bool = False) -> Sequence[Digest]:
        await self.failpoints.reach("sweep")
        gone = sorted(self.layers - {*keep, *+self._exporting})
        if dry:
            return gone
        self.disk = self.disk_after_sweep or self.disk
        self.layers.difference_update(gone)
        return gone

    async def usage(self) -> FilesystemUsage:
        await self.failpoints.reach("usage")
        return FilesystemUsage("/layers", 1000 * len(self.layers), len(self.layers), 1)

    async def stored(self) -> StoredLayers:
        await self.failpoints.reach("stored")
        return StoredLayers(dict.fromkeys(self.layers, 1000), 50)

    async def writable_usage(self) -> FilesystemUsage:
        await self.failpoints.reach("writable_usage")
        return FilesystemUsage("/containers", 0, 0, 1)

    async def dismantle(self) -> None:
        await self.failpoints.reach("dismantle")
        self.dismantled = True

    async def close(self) -> None:
        await self.failpoints.reach("close")
        self.closed = True
