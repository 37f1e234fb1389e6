"""The images that are here, found by id, by name, or by a beginning of the id."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from crib.model.errors import InvalidRequest
from crib.model.ids import ImageId
from crib.model.image import FetchedImage, ImageRecord, ImageReference, parse_reference
from crib.ports import Clock, Records

_HEX = re.compile(r"[0-9a-f]{4,64}")


class Catalogue:
    """Names point at one image each; one image may have many names, or none."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self._records = records
        self._clock = clock
        self._images: dict[ImageId, ImageRecord] = {}
        self._names: dict[str, ImageId] = {}
        self._changes = asyncio.Lock()

    def fill(self, records: Iterable[ImageRecord]) -> None:
        """Take over what was read at start; nothing is written."""
        for record in records:
            self._show(record)

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(tuple(self._images.values()))

    def __len__(self) -> int:
        return len(self._images)

    def find(self, text: str) -> ImageRecord | None:
        """By `sha256:` id, NAME[:TAG], NAME@DIGEST or a beginning of a bare id, in this order.

        `cafe` may be both a name and a beginning. InvalidRequest for a text that is none of these.
        """
        if text.startswith("sha256:"):
            return self._images.get(ImageId(text))
        reference = parse_reference(text)
        mark, which = ("@", reference.digest) if reference.digest else (":", reference.tag)
        named = self._names.get(f"{reference.name}{mark}{which}")
        if named is not None or not _HEX.fullmatch(text):
            return None if named is None else self._images.get(named)
        found = [row for key, row in self._images.items() if key.startswith(f"sha256:{text}")]
        if len(found) > 1:
            raise InvalidRequest(f"{text} is the beginning of {len(found)} image ids", field="image.image")
        return found[0] if found else None

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
        """Record an image whose layers are on disk, under these names; a tag moves here from another."""
        async with self._changes:
            known = self._images.get(fetched.id)
            tags = list(known.tags) if known else []
            digests = list(known.digests) if known else []
            for reference in references:
                if not reference.digest:
                    _add(tags, f"{reference.name}:{reference.tag}")
                digest = reference.digest or fetched.manifest_digest
                if digest:
                    _add(digests, f"{reference.name}@{digest}")
            record = ImageRecord(
                id=fetched.id,
                config=fetched.config,
                layers=fetched.layers,
                tags=tuple(tags),
                digests=tuple(digests),
                created_at=known.created_at if known else self._clock(),
                pinned=known.pinned if known else False,
            )
            if record != known:
                await self._records.put_image(record)
            for tag in tags:
                await self._take_tag(tag, record.id)
            self._show(record)
            return record

    async def remove(self, record: ImageRecord) -> None:
        """Forget the image and all of its names."""
        async with self._changes:
            record = self._images.get(record.id, record)  # it may have got names meanwhile
            await self._records.delete_image(record.id)
            self._images.pop(record.id, None)
            for name in (*record.tags, *record.digests):
                if self._names.get(name) == record.id:
                    del self._names[name]

    async def _take_tag(self, tag: str, image: ImageId) -> None:
        previous = self._names.get(tag)
        if previous is None or previous == image:
            return
        loser = self._images[previous]
        loser = replace(loser, tags=tuple(name for name in loser.tags if name != tag))
        await self._records.put_image(loser)
        self._images[previous] = loser

    def _show(self, record: ImageRecord) -> None:
        self._images[record.id] = record
        for name in (*record.tags, *record.digests):
            self._names[name] = record.id


def _add(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)
