"""The image store: layers on disk, filled by the worker, mounted for containers (port `Images`).

A layer's file is there exactly when the layer is whole and synced, because it is only ever renamed into
place. Which layers an image needs is the caller's knowledge (its records); `sweep` removes the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import msgspec

from crib.backends.failures import foreign, ours, trying
from crib.backends.images.archives import ARCHIVE_SECONDS, opened_archive
from crib.backends.images.checks import check_layer
from crib.backends.images.descent import check_descent
from crib.backends.images.export import check_place, export_images
from crib.backends.images.image_worker import ImageWorker
from crib.backends.images.layer_tars import StoredTars
from crib.backends.images.messages import Import, LayerTerms, Pull
from crib.backends.images.mounts import LayerMounts
from crib.backends.images.registries.hosts import RegistryHosts
from crib.backends.images.signatures import judged_by, problem_with
from crib.backends.images.space import StoreSpace
from crib.backends.images.staging import Staging, worker_user
from crib.backends.images.unpacked.directories import DirectoryLayers
from crib.host import files
from crib.host.directories import in_own
from crib.host.threads import Job
from crib.model.disk import StoredLayers
from crib.model.errors import Broken, InvalidRequest, Unavailable
from crib.model.facts import LayerMounting, WorkerFigures
from crib.model.ids import Digest, digest_from_hex, digest_of, is_digest
from crib.model.image import (
    DiskSpace,
    ExportedImage,
    FetchedImage,
    FilesystemUsage,
    Layer,
    Platform,
    PullOrder,
    SuspectImage,
    parse_reference,
)
from crib.model.image_settings import ImageSettings
from crib.model.paths import Paths
from crib.model.registry import RegistryHost
from crib.model.settings import Settings
from crib.ports.images import ProgressSink
from crib.wire.oci_image import MAX_LAYERS, oci_architecture

_SUFFIX = ".erofs"
KEYS_SECONDS = 10.0
"""To read the keys of a policy rule, and check signatures by them."""
READ_SECONDS = 3600.0
"""For what reads or syncs whole layers: at a slow disk's pace it takes long."""


class LayerStore:
    """Layers of one data root. Made on the loop's thread, after the probe, before anything is pulled."""

    def __init__(self, paths: Paths, settings: ImageSettings, mounting: LayerMounting) -> None:
        self._paths = paths
        self._settings = settings
        self._terms = LayerTerms(settings.transfer, mounting)
        self._platform = node_platform()
        os.makedirs(paths.layers, mode=0o700, exist_ok=True)
        self._directories = DirectoryLayers(paths, settings.transfer.min_free)
        self.mounts = LayerMounts(paths, mounting, self._directories)
        """Where containers get their layers from."""
        store = settings.store
        self._staging = Staging(paths, worker_user(store.worker_user), store, mounting)
        self._worker = ImageWorker(self._staging, store.worker_memory)
        self._hosts = RegistryHosts(settings.registries)
        self._changing = asyncio.Lock()
        self._removing = asyncio.Lock()
        """Held by `sweep`, so that nobody counts on a layer that it is about to remove."""
        self._wanted: Counter[Digest] = Counter()
        self._space = StoreSpace(paths, self._directories)

    @property
    def mounting(self) -> LayerMounting:
        """How layers are mounted here."""
        return self.mounts.mounting

    @property
    def worker_pid(self) -> int | None:
        """The image worker, while there is one."""
        return self._worker.figures.pid

    @property
    def worker(self) -> WorkerFigures:
        """The image worker, and those before it."""
        return self._worker.figures

    async def hosts(self, order: PullOrder) -> Sequence[RegistryHost]:
        """Who is asked for the image, first to last, and with what."""
        return await self._hosts.hosts(order)

    async def pull(self, order: PullOrder, progress: ProgressSink) -> FetchedImage:
        """Resolve and fetch an image; layers that are on disk are not fetched again.

        NotFound, Unavailable (reason RegistryUnavailable) and Broken name every place that was asked.
        """
        message = await self._message(order)

        async def take(images: tuple[FetchedImage, ...]) -> FetchedImage:
            return (await self._adopt([_only(images, order)], order.again))[0]

        # From here on the worker itself reports what others adopt, except before it has this request:
        # that it fetches again, which costs time and nothing else.
        async with self._holding_present(order.again) as present:
            message = msgspec.structs.replace(message, have=tuple(present))
            return await self._worker.run(message, f"pull of {order.reference}", progress, take)

    async def resolve(self, order: PullOrder, progress: ProgressSink) -> FetchedImage:
        """What a pull would bring, without layers."""
        message = msgspec.structs.replace(await self._message(order), layers=False)

        async def take(images: tuple[FetchedImage, ...]) -> FetchedImage:
            _check(image := _only(images, order))
            await ours(_hashing(image), partial(check_descent, image, layers=False))
            return image

        return await self._worker.run(message, f"look at {order.reference}", progress, take)

    async def _message(self, order: PullOrder) -> Pull:
        return Pull(
            id=self._worker.new_number(),
            name=order.reference.name,
            tag=order.reference.tag,
            digest=order.reference.digest,
            hosts=tuple(await self._hosts.hosts(order)),
            platform=_in_full(order.platform, self._platform),
            have=(),
            terms=self._terms,
            signatures=order.signatures,
        )

    async def import_archive(self, path: str, progress: ProgressSink) -> Sequence[FetchedImage]:
        """Read an OCI layout directory, an OCI archive or a `docker save` archive.

        InvalidRequest says what is wrong with it; nothing of it stays then.
        """
        async with opened_archive(path) as (fd, directory), self._holding_present() as present:
            message = Import(
                self._worker.new_number(), directory, self._platform, tuple(present), self._terms
            )
            return await self._worker.run(message, f"import of {path}", progress, self._adopt, fd)

    async def check(self, layer: Layer) -> str:
        """What is wrong with the layer on disk; empty when it is as it was written."""
        with self._holding([layer.diff_id]):
            directory = self._paths.layer_directory(layer.diff_id)
            if await ours(f"looking for {directory}", os.path.isdir, directory):
                return await self._directories.check(layer.diff_id)
            path = self._paths.layer_file(layer.diff_id)
            job = Job(f"checking {path}", layer.diff_id, READ_SECONDS)
            return await ours(job, check_layer, path, layer)

    async def export(self, path: str, images: Sequence[ExportedImage], archive_format: str) -> int:
        """Write images to a new archive; its size in bytes. Their layers stay meanwhile, and no others."""
        layers = [layer.diff_id for image in images for layer in image.record.layers]
        tars = StoredTars(self._paths.layer_file, self._paths.layer_directory)
        with contextlib.ExitStack() as held:
            async with self._removing:
                held.enter_context(self._holding(layers))
            # By itself first: a path that does not answer is found out long before an archive is written.
            job = Job(f"looking at the place of the archive {path}", path, ARCHIVE_SECONDS)
            await foreign(job, check_place, path)
            job = Job(f"writing the archive {path}", path, READ_SECONDS)
            return await foreign(job, export_images, path, images, archive_format, tars)

    async def verify(self, suspect: SuspectImage) -> str:
        """Why the image is not what `suspect` asks for: its signatures first, then the programs in order."""
        problem = ""
        if suspect.keys:
            job = Job(f"reading the keys {', '.join(suspect.keys)}", suspect.keys[0], KEYS_SECONDS)
            try:
                problem = await foreign(job, problem_with, suspect)
            except Unavailable as error:
                problem = str(error)
        for program in suspect.programs:
            problem = problem or await judged_by(program, suspect, self._settings.trust.verifier_timeout)
        return problem

    async def space(self) -> DiskSpace:
        """Of the file system that holds the layers."""
        return await self._space.disk()

    async def present(self) -> Collection[Digest]:
        """The layers that are on disk, as files or directories."""
        return await self._list()

    async def sweep(self, keep: Collection[Digest], *, dry: bool = False) -> Sequence[Digest]:
        """Remove the layers that are neither in `keep` nor used by a running pull; returns those gone.

        With `dry` says which would go, but for those that are in use then.
        """
        kept = frozenset(keep)
        async with self._changing, self._removing:
            listed = await self._list()
            doomed = [layer for layer in listed if layer not in kept and layer not in self._wanted]
            if dry:
                return doomed
            unmounted = await self.mounts.unmount(doomed)
            await self._directories.remove(unmounted)
            await ours(f"removing half-made layers of {self._paths.layers}", self._remove_incoming)
            await self._worker.tidy()
        await self._directories.tidy()
        return unmounted

    async def usage(self) -> FilesystemUsage:
        """Space of layers, half-made ones and images' records."""
        return await self._space.usage()

    async def stored(self) -> StoredLayers:
        """What each layer takes on disk, and what pulls have begun."""
        return await self._space.stored()

    async def writable_usage(self) -> FilesystemUsage:
        """Space that the containers' writable layers take; measured at most every ten seconds."""
        return await self._space.writable_usage()

    async def dismantle(self) -> None:
        """Unmount every layer, and the directory that they are mounted below."""
        await self.mounts.unmount_all()

    def adapt(self, settings: Settings) -> None:
        """What has begun goes on as it began."""
        images = settings.images
        if images.registries != self._settings.registries:
            self._hosts = RegistryHosts(images.registries)
        self._settings = images
        self._terms = LayerTerms(images.transfer, self.mounting)
        self._directories.min_free = images.transfer.min_free
        self._staging.settings = images.store

    async def close(self) -> None:
        """End the worker; layers stay mounted for the containers that run on."""
        await self._worker.close()

    async def _list(self) -> list[Digest]:
        with trying(f"{self._paths.layers} cannot be listed", Unavailable):
            return await ours(f"listing {self._paths.layers}", self._listed)

    def _listed(self) -> list[Digest]:
        names = in_own(self._paths.layers, os.listdir)
        digests = (digest_from_hex(name.removesuffix(_SUFFIX)) for name in names if name.endswith(_SUFFIX))
        found = [digest for digest in digests if digest is not None]
        return [*found, *(layer for layer in self._directories.listed() if layer not in found)]

    def _remove_incoming(self) -> None:
        """Of an adoption that a crash cut short: `sweep` and `_adopt` never run at once."""
        for name in in_own(self._paths.layers, os.listdir):
            if name.startswith(".") and name.endswith(".incoming"):
                files.remove_tree(f"{self._paths.layers}/{name}")

    @contextlib.contextmanager
    def _holding(self, layers: Collection[Digest]) -> Iterator[None]:
        """Keep `sweep` away from layers that a request counts on."""
        self._wanted.update(layers)
        try:
            yield
        finally:
            self._wanted.subtract(layers)
            for layer in layers:
                if self._wanted[layer] <= 0:
                    del self._wanted[layer]

    @contextlib.asynccontextmanager
    async def _holding_present(self, but: Collection[Digest] = ()) -> AsyncIterator[list[Digest]]:
        """The layers that are on disk, which stay there meanwhile; without those in `but`."""
        with contextlib.ExitStack() as held:
            async with self._removing:
                present = [one for one in await self._list() if one not in but]
                held.enter_context(self._holding(present))
            yield present

    async def _adopt(
        self, images: Sequence[FetchedImage], again: Collection[Digest] = ()
    ) -> list[FetchedImage]:
        """Take staged layers over; those in `again` replace what is there, and the next mount is theirs."""
        for image in images:
            _check(image)
        images = [await ours(_hashing(image), _descended, image) for image in images]
        layers = {layer.diff_id: layer for image in images for layer in image.layers}
        replaced = [layer for layer in again if layer in layers]
        async with self._changing:
            try:
                sizes = await self._take(layers, replaced)
            except OSError as error:
                raise Broken(f"layers could not be taken over into {self._paths.layers}: {error}") from error
        return [_with_sizes(image, sizes) for image in images]

    def _unpacked(self, layers: Iterable[Digest]) -> dict[Digest, int]:
        """Those that are here as directories, with their sizes."""
        return {one: size for one in layers if (size := self._directories.size(one)) is not None}

    async def _take(self, layers: Mapping[Digest, Layer], replaced: Collection[Digest]) -> dict[Digest, int]:
        what = f"looking for layers in {self._paths.layers}"
        unpacked = await ours(what, self._unpacked, list(layers))
        stale = [layer for layer in replaced if layer in unpacked]
        await self.mounts.unmount(stale)
        await self._directories.remove(stale)
        kept = {one: size for one, size in unpacked.items() if one not in stale}
        await ours(f"removing staged layers of {self._paths.staging}", self._staging.discard, kept)
        missing = [layer for one, layer in layers.items() if one not in kept]
        job = Job(f"taking {len(missing)} layers over into {self._paths.layers}", limit=READ_SECONDS)
        sizes = kept | await ours(job, self._staging.adopt, missing, replaced)
        await self.mounts.unmount(replaced)
        if self.mounting.method == "directory":
            for layer in missing:
                sizes[layer.diff_id] = await self._directories.unpack(layer.diff_id)
        return sizes


def store_for_wipe(paths: Paths, settings: ImageSettings) -> LayerStore:
    """One that unmounts and removes: nothing is tried out, and the worker's user may be missing."""
    mounting = LayerMounting("file", 0, False)
    try:
        return LayerStore(paths, settings, mounting)
    except Unavailable:
        store = replace(settings.store, worker_user="nobody")
        return LayerStore(paths, replace(settings, store=store), mounting)


def _only(images: Sequence[FetchedImage], order: PullOrder) -> FetchedImage:
    """The one image that a pull is about; Broken when the worker says something else."""
    reference = order.reference
    if len(images) != 1:
        raise Broken(f"pull of {reference}: image worker answered with {len(images)} images")
    if reference.digest and images[0].manifest_digest != reference.digest:
        raise Broken(f"pull of {reference}: image worker answered with {images[0].manifest_digest}")
    return images[0]


def node_platform() -> Platform:
    """What images must be for to run here."""
    return Platform(oci_architecture(os.uname().machine), "linux")


def _in_full(wanted: Platform, node: Platform) -> Platform:
    return wanted if wanted.architecture else node


def _hashing(image: FetchedImage) -> str:
    return f"hashing the documents of image {image.id}"


def _descended(image: FetchedImage) -> FetchedImage:
    check_descent(image)
    return replace(image, own_digest=digest_of(image.documents.manifest)) if image.indexes else image


def _check(image: FetchedImage) -> None:
    """Refuse what a sane worker would not say: everything here may become part of a path or a record."""
    digests = [
        image.id,
        *(layer.diff_id for layer in image.layers),
        *(layer.blob_digest for layer in image.layers),
    ]
    if image.manifest_digest is not None:
        digests.append(image.manifest_digest)
    # Empty for a layer that was here already.
    digests += [layer.data_digest for layer in image.layers if layer.data_digest]
    digests += [layer.rest_digest for layer in image.layers if layer.rest_digest]
    wrong = next((digest for digest in digests if not is_digest(digest)), None)
    if wrong is not None or len(image.layers) > MAX_LAYERS:
        raise Broken(f"image worker answered with {len(image.layers)} layers and the digest {wrong!r}")
    for name in image.names:
        try:
            parse_reference(name)
        except InvalidRequest as error:
            raise Broken(f"image worker answered with a bad name: {error}") from error


def _with_sizes(image: FetchedImage, sizes: Mapping[Digest, int]) -> FetchedImage:
    layers = tuple(replace(layer, size=sizes[layer.diff_id]) for layer in image.layers)
    return replace(image, layers=layers)
