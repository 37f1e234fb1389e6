"""Volumes after a start: what was cut off is undone, and after a reboot pods have theirs again.

Nobody waits for it, for a driver may come later than the daemon, or be a pod itself. Whoever wants a volume
meanwhile waits for its lock, or finds it as an earlier boot left it and does the same work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from crib.engine.volumes.copies import OURSELVES
from crib.engine.volumes.parts import VolumeParts
from crib.engine.volumes.publishing import with_use
from crib.model.errors import CribError
from crib.model.events import EventKind
from crib.model.volumes import (
    SnapshotRecord,
    SnapshotState,
    StageState,
    UseState,
    VolumeName,
    VolumeRecord,
    VolumeState,
)

_log = logging.getLogger(__name__)
PARALLEL = 16
"""Volumes that are worked on together."""


class VolumeRecovery:
    """That of one start."""

    def __init__(self, parts: VolumeParts) -> None:
        self._shelf = parts.shelf
        self._making = parts.making
        self._publishing = parts.publishing
        self._snapshots = parts.snapshots
        self._slots = asyncio.Semaphore(PARALLEL)

    def begin(self, sweep: Callable[[], Awaitable[Sequence[str]]]) -> None:
        """Start what there is to do; most starts find nothing but to `sweep`."""
        shelf, serve = self._shelf, self._shelf.core.keeper.serve
        for row in shelf.volumes:
            if not self._is_settled(row):
                serve("recovery", self._bounded(f"volume {row.name}", self._volume, row.name), row.id)
        for kept in shelf.snapshots:
            if kept.state is not SnapshotState.READY:
                serve(
                    "recovery",
                    self._bounded(f"snapshot {kept.name}", self._snapshots.discard, kept),
                    kept.id,
                )
        serve("sweep of volumes", self._sweep(sweep))

    async def _sweep(self, sweep: Callable[[], Awaitable[Sequence[str]]]) -> None:
        try:
            for path in await sweep():
                _log.warning("removed %s: it belonged to no record", path)
        except CribError as error:
            _log.error("what belongs to no record of volumes could not be removed: %s", error)

    def _is_settled(self, row: VolumeRecord) -> bool:
        boot_id = self._shelf.core.facts.boot_id
        return (
            row.state is VolumeState.READY
            and row.boot_id in ("", boot_id)
            and (row.stage is StageState.STAGED if row.uses else row.stage is StageState.UNSTAGED)
            and all(use.state is UseState.PUBLISHED and use.pod.uid != OURSELVES.uid for use in row.uses)
        )

    async def _bounded(
        self, what: str, work: Callable[[Any], Coroutine[Any, Any, None]], of: VolumeName | SnapshotRecord
    ) -> None:
        """The calls of kinds have their limits, and the row says what went wrong."""
        try:
            async with self._slots:
                with self._shelf.core.figures.recoveries.timed("volume"):
                    await work(of)
        except CribError as error:
            _log.error("recovering %s: %s", what, error)

    async def _volume(self, name: VolumeName) -> None:
        shelf = self._shelf
        async with shelf.lock(name):
            row = shelf.volumes.named(name)
            record = shelf.current(name)
            if row is None or record is None:
                return
            if record.state is not VolumeState.READY:
                await self._making.teardown(record)
                return
            rebooted = record.boot_id != row.boot_id
            for use in record.uses:
                if use.pod.uid == OURSELVES.uid or (not rebooted and use.state is not UseState.PUBLISHED):
                    record = await self._publishing.detach(record, use)
            if rebooted:
                await self._publish_again(record)
            else:
                await self._making.unstage(record)

    async def _publish_again(self, record: VolumeRecord) -> None:
        """As before the reboot, before the pods are run again; a pod whose files are gone asks for none."""
        shelf, events = self._shelf, self._shelf.core.history
        record = shelf.put(record)
        try:
            record = await self._publishing.attach_all(record)
        except CribError as error:
            now = shelf.current(record.name) or record
            uses = now.uses
            for use in uses:
                if use.state is not UseState.PUBLISHED:
                    now = replace(now, uses=with_use(now, replace(use, problem=str(error))))
            shelf.put(now)
            events.happened(EventKind.VOLUME, "not published", str(record.name), str(error))
            raise
        if record.uses:
            events.happened(EventKind.VOLUME, "published again", str(record.name))
