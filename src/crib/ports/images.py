"""What keeps images, and fills the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from crib.model.disk import StoredLayers
from crib.model.facts import LayerMounting, WorkerFigures
from crib.model.ids import Digest
from crib.model.image import (
    DiskSpace,
    ExportedImage,
    FetchedImage,
    FilesystemUsage,
    Layer,
    Progress,
    PullOrder,
    SuspectImage,
)
from crib.model.registry import RegistryHost
from crib.model.settings import Settings

ProgressSink = Callable[[Progress], None]


class Images(Protocol):
    """The image store and the worker that fills it."""

    @property
    def mounting(self) -> LayerMounting: ...

    @property
    def worker(self) -> WorkerFigures:
        """Of the process that fills the store."""
        ...

    async def pull(self, order: PullOrder, progress: ProgressSink) -> FetchedImage:
        """Resolve and fetch; layers that are here are not fetched again. New ones are synced."""
        ...

    async def resolve(self, order: PullOrder, progress: ProgressSink) -> FetchedImage:
        """What a pull would bring, without layers: for those who look before they take."""
        ...

    async def hosts(self, order: PullOrder) -> Sequence[RegistryHost]:
        """The hosts that are asked for the image, in order, and with what. InvalidRequest: it is blocked."""
        ...

    async def check(self, layer: Layer) -> str:
        """What is wrong with the layer on disk; empty when it is as it was written."""
        ...

    async def export(self, path: str, images: Sequence[ExportedImage], archive_format: str) -> int:
        """To a new file: `oci`, a tar of an OCI layout, or `docker`; its bytes. `sweep` spares the layers."""
        ...

    async def verify(self, suspect: SuspectImage) -> str:
        """Why the image is not what `suspect` asks for; empty when it is."""
        ...

    async def space(self) -> DiskSpace:
        """Of the file system that holds the layers."""
        ...

    async def import_archive(self, path: str, progress: ProgressSink) -> Sequence[FetchedImage]:
        """Read an OCI layout directory, an OCI archive or a `docker save` archive."""
        ...

    async def present(self) -> Collection[Digest]:
        """The layers that are on disk."""
        ...

    async def sweep(self, keep: Collection[Digest], *, dry: bool = False) -> Sequence[Digest]:
        """Remove layers not in `keep` (unmounting them) and stale staging files; with `dry` only report."""
        ...

    async def usage(self) -> FilesystemUsage: ...

    async def stored(self) -> StoredLayers:
        """What each layer takes on disk, and what pulls have begun."""
        ...

    async def writable_usage(self) -> FilesystemUsage:
        """Space taken by the containers' writable layers together."""
        ...

    async def dismantle(self) -> None: ...

    def adapt(self, settings: Settings) -> None:
        """Go by other settings from now on; they differ in what is LIVE only."""
        ...

    async def close(self) -> None: ...
