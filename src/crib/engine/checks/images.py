"""Images against the disk: layers, their own documents, and layers that nobody needs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.verbs import ImageVerbs
from crib.engine.mending import mended
from crib.model.errors import CribError, NotFound
from crib.model.finding import Finding
from crib.model.ids import Digest, digest_of
from crib.model.image import ImageRecord, Layer, PullOrder, parse_reference

_log = logging.getLogger(__name__)

_FETCH = "it is fetched again from where the image came"
_IMPORT = "no registry is known that has the image: import it again, or remove it"


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """What was found of one layer."""

    layer: Digest
    problem: str
    """Empty when it is as it was written."""
    images: tuple[str, ...]
    """That have it: a name of each, or its id."""
    repaired: bool = False
    repair_error: str = ""


class CheckImages:
    """The verb: compares layers with what was recorded when they were written, and mends those that differ.

    Containers go on running, on the layer as they found it.
    """

    def __init__(self, core: Core, catalogue: Catalogue, verbs: ImageVerbs) -> None:
        self._core = core
        self._catalogue = catalogue
        self._verbs = verbs

    async def __call__(self, names: Sequence[str], *, repair: bool) -> AsyncIterator[LayerCheck]:
        """Look at every layer of the images that are named, of all when none is; each layer once."""
        for layer in self._layers(names).values():
            problem = await self._core.ports.images.check(layer)
            owners = self._catalogue.having(layer.diff_id)
            images = tuple(map(_name, owners))
            found = LayerCheck(layer.diff_id, problem, images)
            if problem:
                _log.error("layer %s of %s is damaged: %s", layer.diff_id, ", ".join(images), problem)
                if repair:
                    error = await self._repair(layer, owners)
                    found = LayerCheck(layer.diff_id, problem, images, not error, error)
            yield found

    def _layers(self, names: Sequence[str]) -> dict[Digest, Layer]:
        rows: list[ImageRecord] = []
        for name in names:
            record = self._catalogue.find(name)
            if record is None:
                raise NotFound(f"image {name!r} is not on this node")
            rows.append(record)
        return {layer.diff_id: layer for row in rows or self._catalogue for layer in row.layers}

    async def _repair(self, layer: Layer, owners: Sequence[ImageRecord]) -> str:
        """Fetch the layer again from wherever one of its images came; why that failed, or empty."""
        errors = []
        for name in (digest for row in owners for digest in row.digests):
            try:
                await self._verbs.pull(PullOrder(parse_reference(name), again=frozenset({layer.diff_id})))
            except CribError as error:
                errors.append(str(error))
                continue
            problem = await self._core.ports.images.check(self._now(layer))
            if not problem:
                _log.info("layer %s was fetched again from %s", layer.diff_id, name)
                return ""
            errors.append(f"{name}: after it was fetched again: {problem}")
        return "; ".join(errors) or "no registry is known that has it: import the image again"

    def _now(self, layer: Layer) -> Layer:
        """The layer as its images describe it now."""
        owners = self._catalogue.having(layer.diff_id)
        return next((one for row in owners for one in row.layers if one.diff_id == layer.diff_id), layer)


class ImageFindings:
    """The parts of a check that are about images."""

    def __init__(self, core: Core, catalogue: Catalogue, verbs: ImageVerbs) -> None:
        self._core = core
        self._catalogue = catalogue
        self._verbs = verbs
        self._check = CheckImages(core, catalogue, verbs)

    async def layers(self, *, repair: bool, quick: bool) -> AsyncIterator[Finding]:
        """Layers that are missing or, unless the look is quick, are not what was written.

        A quick one reads those images only that have lost a layer.
        """
        wanted: list[str] = []
        if quick:
            present = frozenset(await self._core.ports.images.present())
            wanted = [row.id for row in self._catalogue if {layer.diff_id for layer in row.layers} - present]
            if not wanted:
                return
        async for check in self._check(wanted, repair=repair):
            if check.problem:
                found = Finding("images", check.layer, f"layer of {', '.join(check.images)}: {check.problem}")
                found = replace(found, mended=check.repaired, mend_error=check.repair_error)
                yield replace(found, mend=_FETCH)

    async def documents(self, *, repair: bool) -> AsyncIterator[Finding]:
        """Images whose configuration or manifest is not what their id and digests say."""
        for row in self._catalogue:
            documents = await self._core.ports.records.image_documents(row.id)
            if not documents.config:
                text = f"{_name(row)} has no documents: it cannot be exported until it is pulled again"
                yield Finding("images", row.id, text, is_note=True)
                continue
            problem = ""
            if str(digest_of(documents.config, row.id)) != row.id:  # of a few kB, rarely more
                problem = f"the configuration of {_name(row)} is not what its id says"
            if not problem:
                continue
            found = Finding("images", row.id, problem, _FETCH if row.digests else _IMPORT)
            if repair and row.digests:
                order = PullOrder(parse_reference(row.digests[0]))
                (found,) = await mended(self._core, [found], self._verbs.pull(order))
            yield found

    async def unreferenced(self, *, repair: bool) -> AsyncIterator[Finding]:
        """Layers that no image and no container needs."""
        found = [
            Finding("images", layer, "layer that no image and no container needs", "it is removed")
            for layer in await self._verbs.unreferenced()
        ]
        if found and repair:
            found = await mended(self._core, found, self._verbs.sweep())
        for one in found:
            yield one


def _name(row: ImageRecord) -> str:
    return next(iter((*row.tags, *row.digests)), row.id)
