"""Progress of pulls and imports that are under way, for anybody who wants to watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from crib.model.image import ImageRecord, Progress, PullOrder

UPDATE_INTERVAL = 0.1
"""Seconds between two updates to one watcher."""


@dataclass(frozen=True, slots=True)
class TransferUpdate:
    """How far each layer is; `images` is filled in the last update."""

    layers: tuple[Progress, ...]
    images: tuple[ImageRecord, ...] = ()
    finished: bool = False


class Transfer:
    """One pull or import: progress comes in by `sink`, watchers read `updates`."""

    def __init__(self, order: PullOrder | None = None) -> None:
        self._order = order
        self._layers: dict[str, Progress] = {}
        self._watchers: set[asyncio.Event] = set()
        self.fetched = 0
        """Bytes of layers that came, as they are kept at the other end."""

    @property
    def order(self) -> PullOrder:
        """What is pulled; an import has none."""
        assert self._order is not None
        return self._order

    def sink(self, progress: Progress) -> None:
        """The ports' ProgressSink."""
        self._layers[progress.layer] = progress
        if progress.stage == "done":
            self.fetched += progress.total
        for watcher in self._watchers:
            watcher.set()

    async def updates(self, work: asyncio.Future[tuple[ImageRecord, ...]]) -> AsyncIterator[TransferUpdate]:
        """Yield after changes until `work` is done; then its images, or its error is raised."""
        news = asyncio.Event()
        news.set()
        self._watchers.add(news)
        waiting = asyncio.shield(work)
        try:
            waiting.add_done_callback(lambda _: news.set())
            while not waiting.done():
                await news.wait()
                news.clear()
                yield TransferUpdate(tuple(self._layers.values()))
                await asyncio.wait([waiting], timeout=UPDATE_INTERVAL)
            yield TransferUpdate(tuple(self._layers.values()), images=await waiting, finished=True)
        finally:
            self._watchers.discard(news)
            waiting.cancel()  # else asyncio complains of a failure after the watcher left
