"""What a node does with images by itself: archives and pre-pulls at start, garbage collection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.verbs import ImageVerbs
from crib.model.errors import CribError
from crib.model.image import ImageRecord, PullOrder, parse_reference
from crib.model.image_settings import UpkeepSettings
from crib.tasks.groups import Group

_log = logging.getLogger(__name__)

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
"""Seconds between two tries of a pre-pull: doubled each time."""
COLLECT_INTERVAL = 30.0
"""Seconds between two looks at the file system."""
LOOK_INTERVAL = 30.0
"""Seconds between two looks for layers that somebody has removed: as often as a kubelet lists images."""


class Upkeep:
    """Background work on images; nothing of it keeps a pod waiting, and a failure is logged."""

    def __init__(self, core: Core, catalogue: Catalogue, verbs: ImageVerbs) -> None:
        self._core = core
        self._catalogue = catalogue
        self._verbs = verbs

    @property
    def _settings(self) -> UpkeepSettings:
        return self._core.settings.images.upkeep

    def begin(self, archives: Sequence[str]) -> None:
        """Start it all; `archives` are those of the import directory."""
        if archives or self._settings.prepull:
            self._core.keeper.serve("fill images", self._fill(archives))
        self._core.keeper.serve("look for lost layers", self._look_forever())
        self._core.keeper.serve("collect images", self._collect_forever())

    async def _fill(self, archives: Sequence[str]) -> None:
        """Archives first: they may hold what is to be pulled."""
        for path in archives:
            try:
                async for update in self._verbs.import_archive(path, ()):
                    for record in update.images:
                        _log.info("%s: imported %s", path, ", ".join(record.tags) or record.id)
            except CribError as error:
                _log.error("%s: %s", path, error)
        async with Group() as group:
            for name in self._settings.prepull:
                group.start(f"pre-pull {name}", self._prepull(name))

    async def _prepull(self, name: str) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                if self._catalogue.find_here(name) is None:
                    await self._verbs.pull(PullOrder(parse_reference(name, field="images.prepull")))
                    _log.info("pre-pulled %s", name)
            except CribError as error:
                _log.warning("pre-pull of %s failed, next try in %.0f s: %s", name, pause, error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    async def _look_forever(self) -> None:
        """So that a kubelet sees which images it has to pull again before it makes a container."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                await self._catalogue.look(self._core.ports.images)
            except CribError as error:
                _log.warning("could not check for lost layers: %s", error)

    async def _collect_forever(self) -> None:
        while True:
            try:
                await self.collect()
            except Exception as error:  # a bug too: the disk fills up
                is_bug = not isinstance(error, CribError)
                _log.error("garbage collection of images: %s", error, exc_info=is_bug)
            await asyncio.sleep(COLLECT_INTERVAL)

    async def collect(self) -> Sequence[ImageRecord]:
        """From the high mark, if any, to the low one remove unused images, the longest unused first."""
        removed: list[ImageRecord] = []
        if not self._settings.gc_high or await self._used_percent() < self._settings.gc_high:
            return removed
        for record in self._unused():
            if await self._used_percent() <= self._settings.gc_low:
                break
            await self._verbs.remove(record.id)
            _log.info("garbage collection removed image %s", next(iter(record.tags), record.id))
            removed.append(record)
        else:
            _log.warning(
                "the image file system is above %d %%, and no image is unused", self._settings.gc_low
            )
        return removed

    async def _used_percent(self) -> float:
        space = await self._core.ports.images.space()
        return 100 * (1 - space.free / space.total) if space.total else 0.0

    def _unused(self) -> list[ImageRecord]:
        """Images that may go, the longest unused first."""
        in_use = {image for container in self._core.containers for image in container.held_images}
        in_use |= {volume.image_id for volume in self._core.volumes if volume.image_id is not None}
        kept = {found.id for name in self._settings.prepull if (found := self._catalogue.find(name))}
        youngest = self._core.clock() - int(self._settings.gc_min_age * 1e9)
        candidates = [
            row
            for row in self._catalogue
            if not row.pinned and row.id not in in_use | kept and max(row.used_at, row.created_at) < youngest
        ]
        return sorted(candidates, key=lambda row: max(row.used_at, row.created_at))
