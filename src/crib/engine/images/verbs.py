"""PullImage, import, RemoveImage, ImageFsInfo."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext

from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.gate import StoreGate
from crib.engine.images.transfers import Transfer, TransferUpdate
from crib.engine.joins import Joins
from crib.model.errors import InvalidRequest, NotFound
from crib.model.ids import Digest
from crib.model.image import FilesystemUsage, ImageRecord, ImageReference, parse_reference
from crib.model.sandbox import PodMetadata

log = logging.getLogger(__name__)


class ImageVerbs:
    """Fills and empties the image store; the catalogue tells what is in it."""

    def __init__(self, core: Core, catalogue: Catalogue) -> None:
        self._core = core
        self._catalogue = catalogue
        self._gate = StoreGate(self._sweep_unreferenced)
        linger = core.settings.images.pull_linger
        self._pulls: Joins[tuple[ImageRecord, ...]] = Joins(core.keeper, "pull", linger=linger)

    async def pull(self, text: str, pod: PodMetadata | None = None) -> ImageRecord:
        """Pull an image; identical pulls under way are one. The timeline of `pod` shows it, where known."""
        reference = parse_reference(text)
        sandbox = None
        if pod is not None:
            sandbox = self._core.sandboxes.named((pod.namespace, pod.name, pod.uid, pod.attempt))
        timed = self._core.timeline.of(sandbox.id)("PullImage", str(reference)) if sandbox else nullcontext()
        with timed:
            (record,) = await self._join(reference)
        return record

    async def follow_pull(self, text: str, *, start: bool) -> AsyncIterator[TransferUpdate]:
        """Updates of a pull that is under way; one is started if `start`, else NotFound."""
        reference = parse_reference(text)
        transfer = self._pulls.running(str(reference))
        if not isinstance(transfer, Transfer):
            if not start:
                raise NotFound(f"no pull of {reference} is under way")
            transfer = Transfer()
        work = self._core.keeper.start(f"follow pull of {reference}", self._join(reference, transfer))
        try:
            async for update in transfer.updates(work):
                yield update
        finally:
            work.cancel()

    async def import_archive(self, path: str, names: Sequence[str]) -> AsyncIterator[TransferUpdate]:
        """Import an OCI layout, OCI archive or `docker save` archive; `names` replace those in it."""
        references = [parse_reference(name, field="names") for name in names]
        if any(reference.digest for reference in references):
            raise InvalidRequest("an imported image cannot be named by digest", field="names")
        transfer = Transfer()
        work = self._core.keeper.start(f"import {path}", self._import(path, references, transfer))
        async for update in transfer.updates(work):
            yield update

    async def remove(self, text: str) -> None:
        """Remove the image and all its names, by whichever of them (CRI RemoveImage). Not there is fine."""
        record = self._catalogue.find(text)
        if record is not None:
            await asyncio.shield(self._core.keeper.start(f"remove image {record.id}", self._remove(record)))

    async def fs_usage(self) -> tuple[FilesystemUsage, FilesystemUsage]:
        """Of the image store, and of the containers' writable layers."""
        return await asyncio.gather(self._core.ports.images.usage(), self._core.ports.images.writable_usage())

    async def sweep(self) -> None:
        """Remove layers that no image and no container needs."""
        await self._gate.sweep()

    async def _join(
        self, reference: ImageReference, transfer: Transfer | None = None
    ) -> tuple[ImageRecord, ...]:
        transfer = transfer or Transfer()
        return await self._pulls.join(str(reference), transfer, lambda: self._pull(reference, transfer))

    async def _pull(self, reference: ImageReference, transfer: Transfer) -> tuple[ImageRecord, ...]:
        async with self._gate.filling():
            fetched = await self._core.ports.images.pull(reference, transfer.sink)
            return (await self._catalogue.admit(fetched, [reference]),)

    async def _import(
        self, path: str, references: Sequence[ImageReference], transfer: Transfer
    ) -> tuple[ImageRecord, ...]:
        async with self._gate.filling():
            found = await self._core.ports.images.import_archive(path, transfer.sink)
            if references and len(found) != 1:
                raise InvalidRequest(
                    f"are given, but {path} holds {len(found)} images: it must be one", field="names"
                )
            records = []
            for fetched in found:
                named = references or [parse_reference(name) for name in fetched.names]
                records.append(await self._catalogue.admit(fetched, named))
            return tuple(records)

    async def _remove(self, record: ImageRecord) -> None:
        await self._catalogue.remove(record)
        await self._gate.sweep()

    async def _sweep_unreferenced(self) -> None:
        keep: set[Digest] = {layer.diff_id for image in self._catalogue for layer in image.layers}
        for container in self._core.containers:
            keep.update(container.layers)
        for digest in await self._core.ports.images.sweep(keep):
            log.info("layer %s removed: no image and no container needs it", digest)
