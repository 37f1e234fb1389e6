"""Checking images' layers against what was recorded when they were written, and mending those that differ."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.verbs import ImageVerbs
from crib.model.errors import CribError, NotFound
from crib.model.ids import Digest
from crib.model.image import ImageRecord, Layer, PullOrder, parse_reference

_log = logging.getLogger(__name__)


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
    """The verb; containers go on running, on the layer as they found it."""

    def __init__(self, core: Core, catalogue: Catalogue, verbs: ImageVerbs) -> None:
        self._core = core
        self._catalogue = catalogue
        self._verbs = verbs

    async def __call__(self, names: Sequence[str], *, repair: bool) -> AsyncIterator[LayerCheck]:
        """Look at every layer of the images that are named, of all when none is; each layer once."""
        for layer in self._layers(names).values():
            problem = await self._core.ports.images.check(layer)
            owners = self._catalogue.having(layer.diff_id)
            images = tuple(next(iter((*row.tags, *row.digests)), row.id) for row in owners)
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
        """Fetch the layer anew from wherever one of its images came; why that failed, or empty."""
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
