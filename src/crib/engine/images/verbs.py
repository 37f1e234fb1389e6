"""PullImage, import, export, RemoveImage, ImageFsInfo."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.policy import PolicyGuard
from crib.engine.images.transfers import Transfer, TransferUpdate
from crib.engine.joins import Joins
from crib.model.errors import Broken, CribError, InvalidRequest, NotFound
from crib.model.events import EventKind
from crib.model.extension import ImageView
from crib.model.ids import Digest
from crib.model.image import (
    ExportedImage,
    FetchedImage,
    FilesystemUsage,
    ImageDocuments,
    ImageRecord,
    ImageReference,
    PullOrder,
    parse_reference,
)
from crib.model.registry import RegistryHost
from crib.model.sandbox import PodMetadata
from crib.tasks.groups import Beside

_log = logging.getLogger(__name__)


class ImageVerbs:
    """Fills and empties the image store; the catalogue knows what is in it."""

    def __init__(self, core: Core, catalogue: Catalogue, policy: PolicyGuard) -> None:
        self._core = core
        self._catalogue = catalogue
        self._policy = policy
        self._gate = StoreGate(self._sweep_unreferenced, self._sweep_later)
        self._pulls: Joins[tuple[ImageRecord, ...]] = Joins(
            core.keeper, "pull", linger=lambda: core.settings.images.transfer.pull_linger
        )

    async def pull(self, order: PullOrder, pod: PodMetadata | None = None) -> ImageRecord:
        """Pull an image; identical pulls under way are one. The timeline of `pod` shows it, where known."""
        sandbox = None
        if pod is not None:
            sandbox = self._core.sandboxes.named((pod.namespace, pod.name, pod.uid, pod.attempt))
        subject = str(order.reference)
        timed = self._core.timeline.of(sandbox.id)("PullImage", subject) if sandbox else nullcontext()
        with timed:
            (record,) = await self._join(order)
        return record

    async def follow_pull(self, order: PullOrder, *, start: bool) -> AsyncIterator[TransferUpdate]:
        """Updates of a running pull, whoever began it. Without one, `start` begins it, else NotFound."""
        reference = order.reference
        if start:
            transfer = self._pulls.running(_key(order))
            if not isinstance(transfer, Transfer):
                transfer = Transfer(order)
        else:
            transfer = next(
                (one for one in self._transfers() if one.order.reference == reference),
                None,
            )
            if transfer is None:
                raise NotFound(f"no pull of {reference} is under way")
        work = self._core.keeper.begin(f"follow pull of {reference}", self._join(transfer.order, transfer))
        try:
            with work.awaited():
                async for update in transfer.updates(work.task):
                    yield update
        finally:
            work.task.cancel()

    def _transfers(self) -> list[Transfer]:
        return [subject for subject in self._pulls.subjects() if isinstance(subject, Transfer)]

    async def import_archive(self, path: str, names: Sequence[str]) -> AsyncIterator[TransferUpdate]:
        """Import an OCI layout, OCI archive or `docker save` archive; `names` replace those in it."""
        references = [parse_reference(name, field="names") for name in names]
        if any(reference.digest for reference in references):
            raise InvalidRequest("an imported image cannot be named by digest", field="names")
        transfer = Transfer()
        work = self._core.keeper.begin(f"import {path}", self._import(path, references, transfer))
        with work.awaited():
            async for update in transfer.updates(work.task):
                yield update

    async def export(self, path: str, names: Sequence[str], archive_format: str) -> int:
        """Write images to a new archive; the names that were asked for are in it. Its size in bytes."""
        found: dict[str, ExportedImage] = {}
        for name in names:
            record = self._catalogue.find(name)
            if record is None:
                raise NotFound(f"image {name!r} is not on this node")
            documents = await self._core.ports.records.image_documents(record.id)
            tags = _exported_tags(name, record)
            known = found.get(record.id)
            if known is not None:
                tags = (*known.tags, *(tag for tag in tags if tag not in known.tags))
            found[record.id] = ExportedImage(record, documents, tags)
        try:
            return await self._core.ports.images.export(path, tuple(found.values()), archive_format)
        finally:
            if any(self._catalogue.find(image) is None for image in found):
                # Removed meanwhile: sweeps have left its layers to the export.
                self._core.keeper.start(f"sweep of layers after the export to {path}", self.sweep())

    async def remove(self, text: str) -> None:
        """Remove the image and all its names, given any of them (CRI RemoveImage). A missing one is fine."""
        record = self._catalogue.find(text)
        if record is not None:
            await self._core.keeper.begin(f"remove image {record.id}", self._remove_told(text, record)).wait()

    async def _remove_told(self, text: str, record: ImageRecord) -> None:
        async with self._core.hooks.around("remove_image", lambda: ImageView(text, record.id)):
            await self._remove(record)

    async def explain(self, order: PullOrder) -> tuple[Sequence[RegistryHost], str]:
        """Who would be asked for an image, and what the policy says of it."""
        return await self._core.ports.images.hosts(order), self._policy.explain(order.reference)

    async def documents(self, record: ImageRecord) -> ImageDocuments:
        """The image's own documents."""
        return await self._core.ports.records.image_documents(record.id)

    async def fs_usage(self) -> tuple[FilesystemUsage, FilesystemUsage]:
        """Of the image store, and of the containers' writable layers."""
        images = self._core.ports.images
        async with Beside() as beside:
            layers = beside.start("usage of layers", images.usage())
            writable = beside.start("usage of writable layers", images.writable_usage())
            return await layers, await writable

    async def sweep(self) -> None:
        """Remove layers that no image and no container needs."""
        await self._gate.sweep()

    def _sweep_later(self) -> None:
        self._core.retries.later("layers", "sweep of layers", self._gate.sweep_once)

    async def unreferenced(self) -> Sequence[Digest]:
        """Layers that `sweep` would remove; none while images come, whose layers are not on record yet."""
        async with self._gate.resting() as is_resting:
            return await self._core.ports.images.sweep(self._needed(), dry=True) if is_resting else ()

    async def _join(self, order: PullOrder, transfer: Transfer | None = None) -> tuple[ImageRecord, ...]:
        transfer = transfer or Transfer(order)
        return await self._pulls.join(_key(order), transfer, lambda: self._pull_or_tell(order, transfer))

    async def _pull_or_tell(self, order: PullOrder, transfer: Transfer) -> tuple[ImageRecord, ...]:
        try:
            return await self._pull(order, transfer)
        except CribError as error:
            name = str(order.reference)
            self._core.history.happened(EventKind.IMAGE, "pull failed", "", str(error), name)
            raise

    async def _pull(self, order: PullOrder, transfer: Transfer) -> tuple[ImageRecord, ...]:
        figures, registry = self._core.figures, order.reference.registry
        try:
            with figures.pulls.timed(registry):
                return await self._fetch(order, transfer)
        finally:
            figures.pulled.add((registry,), transfer.fetched)

    async def _fetch(self, order: PullOrder, transfer: Transfer) -> tuple[ImageRecord, ...]:
        reference = order.reference
        self._core.refuse_if_faulty()
        self._policy.before_pull(reference)
        view = ImageView(str(reference))
        async with self._core.hooks.around("pull_image", lambda: view):
            order = await self._judged(order, transfer)
            async with self._gate.filling():
                fetched = await self._core.ports.images.pull(order, transfer.sink)
                record = await self._catalogue.admit(fetched, [reference])
            view = ImageView(str(reference), record.id)
        self._core.history.happened(EventKind.IMAGE, "pulled", record.id, name=str(reference))
        return (record,)

    async def _judged(self, order: PullOrder, transfer: Transfer) -> PullOrder:
        """The order for what the policy has seen and accepted: by digest, as a tag may move meanwhile."""
        reference = order.reference
        if not self._policy.looks_at(reference):
            return order
        order = replace(order, signatures=self._policy.needs_signatures(reference))
        found = await self._core.ports.images.resolve(order, transfer.sink)
        await self._policy.before_layers(reference, found)
        return replace(order, reference=replace(reference, digest=found.manifest_digest or reference.digest))

    async def _import(
        self, path: str, references: Sequence[ImageReference], transfer: Transfer
    ) -> tuple[ImageRecord, ...]:
        self._core.refuse_if_faulty()
        async with self._gate.filling():
            found = await self._core.ports.images.import_archive(path, transfer.sink)
            try:
                named = self._names_of(path, found, references)
            except BaseException:
                self._gate.want_sweep()
                raise
            records = tuple(
                [await self._catalogue.admit(image, names) for image, names in zip(found, named, strict=True)]
            )
        for record in records:
            name = next(iter((*record.tags, *record.digests)), "")
            self._core.history.happened(EventKind.IMAGE, "imported", record.id, path, name)
        return records

    def _names_of(
        self, path: str, found: Sequence[FetchedImage], references: Sequence[ImageReference]
    ) -> list[Sequence[ImageReference]]:
        if references and len(found) != 1:
            raise InvalidRequest(
                f"are given, but {path} holds {len(found)} images: it must be one", field="names"
            )
        named = [references or [parse_reference(name) for name in fetched.names] for fetched in found]
        for reference in (one for names in named for one in names):
            self._policy.before_import(reference)
        return named

    async def _remove(self, record: ImageRecord) -> None:
        await self._catalogue.remove(record)
        name = next(iter((*record.tags, *record.digests)), "")
        self._core.history.happened(EventKind.IMAGE, "removed", record.id, name=name)
        await self._gate.sweep()

    def _needed(self) -> set[Digest]:
        keep: set[Digest] = {layer.diff_id for image in self._catalogue for layer in image.layers}
        keep |= self._catalogue.doubted
        for container in self._core.containers:
            keep.update(container.held_layers)
        for volume in self._core.volumes:
            keep.update(volume.layers)
        return keep

    async def _sweep_unreferenced(self) -> None:
        for digest in await self._core.ports.images.sweep(self._needed()):
            _log.info("layer %s removed: no image and no container needs it", digest)


def _key(order: PullOrder) -> tuple[str, str, str, frozenset[Digest]]:
    """What makes two pulls the same: other credentials may see another image, or none."""
    return str(order.reference), str(order.platform), order.auth.fingerprint(), order.again


def _exported_tags(name: str, record: ImageRecord) -> tuple[str, ...]:
    """The tag that was asked for, or all of the image's where it was asked for by digest or id."""
    try:
        reference = parse_reference(name)
    except InvalidRequest:
        return record.tags
    tag = f"{reference.name}:{reference.tag}"
    return (tag,) if tag in record.tags else record.tags


class StoreGate:
    """Any number may fill at once; a sweep waits until nobody does, or is done by the last one to leave."""

    def __init__(self, sweep: Callable[[], Awaitable[object]], failed: Callable[[], None]) -> None:
        """`failed`: called when a sweep has failed, to try `sweep_once` again."""
        self._sweep = sweep
        self._failed = failed
        self._sweeping = asyncio.Lock()
        self._filling = 0
        self._wanted = False

    @asynccontextmanager
    async def filling(self) -> AsyncIterator[None]:
        """Held from before layers are looked for until the image that owns them is recorded."""
        async with self._sweeping:
            self._filling += 1
        try:
            yield
        finally:
            self._filling -= 1
            if self._wanted and not self._filling:
                await self.sweep()

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[bool]:
        """Whether nobody fills; nobody begins to, or sweeps, while this is held."""
        async with self._sweeping:
            yield not self._filling

    def want_sweep(self) -> None:
        """Whoever is the last to leave sweeps. Called by one who fills."""
        self._wanted = True

    async def sweep(self) -> None:
        """Sweep now, or leave it to the last of those who fill. A failure is logged: there will be a next."""
        try:
            await self.sweep_once()
        except CribError as error:
            _log.error("%s", error)
            self._failed()

    async def sweep_once(self) -> None:
        """The same; Broken where the disk takes no writes."""
        async with self._sweeping:
            self._wanted = self._filling > 0
            if self._wanted:
                return
            try:
                await self._sweep()
            except (CribError, OSError) as error:
                raise Broken(f"layers that nobody needs could not be removed: {error}") from error
