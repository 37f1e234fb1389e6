"""The images that are here, found by id, by name, or by a beginning of the id."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from crib.engine.images.policy import matches_any
from crib.model.errors import InvalidRequest
from crib.model.ids import Digest, ImageId
from crib.model.image import (
    FetchedImage,
    ImageDocuments,
    ImageRecord,
    ImageReference,
    Layer,
    parse_reference,
)
from crib.ports.clocks import Clock
from crib.ports.images import Images
from crib.ports.records import Records

_log = logging.getLogger(__name__)

_ID_PREFIX = "sha256:"
_HEX = re.compile(r"[0-9a-f]{4,64}")
_MOST_NAMED = 5
"""Ids that an error names, when a text is the beginning of many."""


class Catalogue:
    """Names point at one image each; one image may have many names, or none."""

    def __init__(self, records: Records, clock: Clock, pinned: tuple[str, ...] = ()) -> None:
        """`pinned`: patterns of names that garbage collection must leave alone."""
        self._records = records
        self._clock = clock
        self._pinned = pinned
        self._images: dict[ImageId, ImageRecord] = {}
        self._names: dict[str, ImageId] = {}
        self._layers: dict[Digest, Layer] = {}
        self._lost: frozenset[Digest] = frozenset()
        self.doubted: frozenset[Digest] = frozenset()
        """Layers that no image names, but perhaps one whose record was lost."""
        self._changes = asyncio.Lock()

    def pin(self, patterns: tuple[str, ...]) -> None:
        """Other patterns from now on, also for the images that are here."""
        self._pinned = patterns
        for record in tuple(self._images.values()):
            pinned = self._is_pinned(record.tags, record.digests)
            self._images[record.id] = replace(record, pinned=pinned)

    def fill(self, records: Iterable[ImageRecord]) -> None:
        """Take over what was read at start; nothing is written.

        Names may have been recorded in a spelling that is not used any more. Of two images that have one name
        now the younger keeps it.
        """
        for record in sorted(records, key=lambda record: record.created_at):
            tags, digests = _canonical(record.tags), _canonical(record.digests)
            for loser in {self._names[tag] for tag in tags if tag in self._names}:
                self._show(self._without(self._images[loser], tags))
            self._show(replace(record, tags=tags, digests=digests, pinned=self._is_pinned(tags, digests)))

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(tuple(self._images.values()))

    def __len__(self) -> int:
        return len(self._images)

    def here(self) -> Iterator[ImageRecord]:
        """Those that can run: an image that has lost a layer is not here, so that it is pulled again."""
        return filter(self._is_whole, self) if self._lost else iter(self)

    def find_here(self, text: str) -> ImageRecord | None:
        """As `find`, of those that can run."""
        found = self.find(text)
        return found if found is not None and self._is_whole(found) else None

    def _is_whole(self, record: ImageRecord) -> bool:
        return not any(layer.diff_id in self._lost for layer in record.layers)

    async def look(self, images: Images) -> None:
        """See which layers are on disk: at start, and when one was missed. Until then memory is believed."""
        async with self._changes:  # else a pull could bring a layer in between and be forgotten
            present = frozenset(await images.present())
            lost = frozenset(layer.diff_id for row in self for layer in row.layers) - present
            for row in self:
                if gone := [layer.diff_id for layer in row.layers if layer.diff_id in lost - self._lost]:
                    name = next(iter((*row.tags, *row.digests)), row.id)
                    _log.error("image %s has to be pulled again: missing on disk: %s", name, ", ".join(gone))
            self._lost = lost

    async def doubt(self, images: Images) -> None:
        """Records were lost: what is on disk now and belongs to no image may belong to one of theirs."""
        named = {layer.diff_id for row in self for layer in row.layers}
        self.doubted = frozenset(await images.present()) - named

    def find(self, text: str) -> ImageRecord | None:
        """By id or its beginning, with or without `sha256:`, by NAME[:TAG] or NAME@DIGEST.

        `cafe` may be both a name and a beginning: it is the name. InvalidRequest for a text that is none of
        these, and for a beginning of several ids.
        """
        if text.startswith(_ID_PREFIX):
            return self._images.get(ImageId(text)) or self._beginning(text)
        reference = parse_reference(text)
        mark, which = ("@", reference.digest) if reference.digest else (":", reference.tag)
        named = self._names.get(f"{reference.name}{mark}{which}")
        return self._beginning(text) if named is None else self._images.get(named)

    def _beginning(self, text: str) -> ImageRecord | None:
        digits = text.removeprefix(_ID_PREFIX)
        if not _HEX.fullmatch(digits):
            return None
        found = [key for key in self._images if key.startswith(digits, len(_ID_PREFIX))]
        if len(found) > 1:
            ids = ", ".join(key.removeprefix(_ID_PREFIX)[:12] for key in sorted(found)[:_MOST_NAMED])
            raise InvalidRequest(
                f"{text} is the beginning of {len(found)} image ids: {ids}", field="image.image"
            )
        return self._images[found[0]] if found else None

    def reference(self, image: ImageRecord, name: str) -> str:
        """NAME@sha256:… of the image under the name that was asked for, or another; else its id."""
        if not image.digests:
            return image.id
        try:
            wanted = parse_reference(name)
        except InvalidRequest:
            return image.digests[0]
        return next((text for text in image.digests if text.startswith(f"{wanted.name}@")), image.digests[0])

    async def admit(self, fetched: FetchedImage, references: Iterable[ImageReference]) -> ImageRecord:
        """Record an image whose layers are on disk, under these names; a tag moves here from another.

        What was pulled by an index has the digest of its own manifest too: either may be asked for later.
        """
        async with self._changes:
            known = self._images.get(fetched.id)
            tags = list(known.tags) if known else []
            digests = list(known.digests) if known else []
            for reference in references:
                if not reference.digest:
                    _add(tags, f"{reference.name}:{reference.tag}")
                for digest in (reference.digest or fetched.manifest_digest, fetched.own_digest):
                    if digest:
                        _add(digests, f"{reference.name}@{digest}")
            record = ImageRecord(
                id=fetched.id,
                config=fetched.config,
                layers=tuple(map(self._described, fetched.layers)),
                tags=tuple(tags),
                digests=tuple(digests),
                created_at=known.created_at if known else self._clock(),
                pinned=self._is_pinned(tuple(tags), tuple(digests)),
                signatures=fetched.signatures or (known.signatures if known else ()),
                used_at=self._clock(),
            )
            documents = await self._news(fetched)
            if documents or known is None or replace(record, used_at=known.used_at) != known:
                await self._records.put_image(record, documents)
            for tag in tags:
                await self._take_tag(tag, record.id)
            self._lost -= {layer.diff_id for layer in record.layers}
            self._show(record)
            return record

    async def _news(self, fetched: FetchedImage) -> ImageDocuments | None:
        """The image's documents, if there is one more than is kept; an archive may lack the manifest."""
        kept = await self._records.image_documents(fetched.id)
        new = fetched.documents
        better = ImageDocuments(new.config or kept.config, new.manifest or kept.manifest)
        return None if better == kept else better

    def use(self, image: ImageId) -> None:
        """Somebody made a container of it just now. Kept in memory: a restart forgets it, and no more."""
        record = self._images.get(image)
        if record is not None:
            self._images[image] = replace(record, used_at=self._clock())

    def having(self, layer: Digest) -> list[ImageRecord]:
        """The images that a layer is part of."""
        return [row for row in self if any(one.diff_id == layer for one in row.layers)]

    def _described(self, layer: Layer) -> Layer:
        """With the digests recorded when its file was written: a pull that found it here has none."""
        return layer if layer.data_digest else self._layers.get(layer.diff_id, layer)

    def _is_pinned(self, tags: tuple[str, ...], digests: tuple[str, ...]) -> bool:
        return matches_any(self._pinned, (*tags, *digests))

    async def remove(self, record: ImageRecord) -> None:
        """Forget the image and all of its names."""
        async with self._changes:
            record = self._images.get(record.id, record)  # it may have got names meanwhile
            await self._records.delete_image(record.id)
            self._images.pop(record.id, None)
            for name in (*record.tags, *record.digests):
                if self._names.get(name) == record.id:
                    del self._names[name]
            needed = {layer.diff_id for row in self for layer in row.layers}
            for layer in record.layers:
                if layer.diff_id not in needed:
                    self._layers.pop(layer.diff_id, None)

    async def _take_tag(self, tag: str, image: ImageId) -> None:
        previous = self._names.get(tag)
        if previous is None or previous == image:
            return
        loser = self._without(self._images[previous], (tag,))
        await self._records.put_image(loser)
        self._images[previous] = loser

    def _without(self, record: ImageRecord, lost: Collection[str]) -> ImageRecord:
        tags = tuple(name for name in record.tags if name not in lost)
        return replace(record, tags=tags, pinned=self._is_pinned(tags, record.digests))

    def _show(self, record: ImageRecord) -> None:
        self._images[record.id] = record
        self._layers.update((layer.diff_id, layer) for layer in record.layers if layer.data_digest)
        for name in (*record.tags, *record.digests):
            self._names[name] = record.id


def _canonical(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_canonical_name, names)))


def _canonical_name(name: str) -> str:
    try:
        return str(parse_reference(name))
    except InvalidRequest:
        return name


def _add(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)
