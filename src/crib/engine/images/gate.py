"""Keeps sweeps of unreferenced layers apart from pulls and imports.

A layer that was just fetched belongs to no image yet; a sweep at that moment would take it away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from crib.model.errors import Broken, CribError

_log = logging.getLogger(__name__)


class StoreGate:
    """Any number may fill at once; a sweep waits until nobody does, or is done by the last one to leave."""

    def __init__(self, sweep: Callable[[], Awaitable[object]], failed: Callable[[], None]) -> None:
        """`failed`: called when a sweep has failed, to have `sweep_once` tried again."""
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
        """The same; Broken where the disk takes nothing."""
        async with self._sweeping:
            self._wanted = self._filling > 0
            if self._wanted:
                return
            try:
                await self._sweep()
            except (CribError, OSError) as error:
                raise Broken(f"layers that nobody needs could not be removed: {error}") from error
