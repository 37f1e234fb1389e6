"""Images against the disk: layers, their own documents, and layers that nobody needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from crib.engine.checks.mending import mended
from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.checks import CheckImages
from crib.engine.images.verbs import ImageVerbs
from crib.model.finding import Finding
from crib.model.ids import digest_of
from crib.model.image import ImageRecord, PullOrder, parse_reference

_FETCH = "it is fetched again from where the image came"
_IMPORT = "no registry is known that has the image: import it again, or remove it"


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
