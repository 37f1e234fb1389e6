"""Volumes as they were at a moment."""

from __future__ import annotations

import logging
from dataclasses import replace

from crib.engine.retries import CLEAN_UP
from crib.engine.volumes.shelf import VolumeShelf
from crib.model.errors import AlreadyExists, CribError, Exhausted, WrongState
from crib.model.events import EventKind
from crib.model.volume_lifecycle import VolumeVerb, move_snapshot
from crib.model.volumes import (
    MAX_SNAPSHOTS,
    SnapshotRecord,
    SnapshotState,
    VolumeName,
    VolumeRecord,
    VolumeState,
    new_snapshot_id,
)

_log = logging.getLogger(__name__)


class Snapshots:
    """The verbs. Lock order: a snapshot's before its volume's."""

    def __init__(self, shelf: VolumeShelf) -> None:
        self._shelf = shelf

    async def make(self, text: str, name: str) -> SnapshotRecord:
        """Keep the volume as it is now; the one of that name and volume that is there already will do.

        NotFound; WrongState where its kind cannot; AlreadyExists where it is one of another volume.
        """
        shelf = self._shelf
        volume = shelf.volume(text).name
        wanted = VolumeName(volume.namespace, name)
        async with shelf.snapshot_lock(wanted), shelf.lock(volume):
            record = shelf.volume(str(volume))
            there = shelf.snapshots.named(wanted)
            if there is not None and there.state is SnapshotState.READY:
                if there.volume != record.id:
                    raise AlreadyExists(f"snapshot {wanted} is there, of volume {there.volume_name}")
                return there
            shelf.core.refuse_if_faulty()
            if not (await shelf.facts(record.spec)).snapshots:
                raise WrongState(f"volume {volume} has no snapshots: its kind, {record.spec.kind}, has none")
            if there is not None:
                await self.teardown(there)
            if len(shelf.snapshots) >= MAX_SNAPSHOTS:
                raise Exhausted(f"there are {MAX_SNAPSHOTS} snapshots on this node, which is the limit")
            return await self._make(record, wanted)

    async def _make(self, volume: VolumeRecord, name: VolumeName) -> SnapshotRecord:
        shelf = self._shelf
        record = SnapshotRecord(
            new_snapshot_id(),
            name,
            volume.id,
            volume.name.name,
            volume.spec,
            SnapshotState.CREATING,
            shelf.core.clock(),
        )
        shelf.snapshots.put(record)
        limit = shelf.core.settings.volumes.copy_timeout
        try:
            made = await shelf.call(
                volume, "snapshot", shelf.kind(volume.spec).snapshot(volume, record), limit
            )
        except Exception:
            try:
                await self.teardown(record)
            except CribError as error:
                _log.warning("snapshot %s is kept, its teardown failed: %s", name, error)
            raise
        state = move_snapshot(record, VolumeVerb.CREATE)
        shelf.core.history.happened(EventKind.VOLUME, "kept", str(volume.name), name.name)
        return shelf.snapshots.put(
            replace(record, state=state, handle=made.handle, size=made.size, usable=made.usable)
        )

    async def remove(self, text: str) -> SnapshotRecord:
        """NotFound."""
        name = self._shelf.snapshot(text).name
        async with self._shelf.snapshot_lock(name):
            record = self._shelf.snapshot(str(name))
            await self.teardown(record)
            return record

    async def remove_row(self, row: SnapshotRecord) -> None:
        """The same of a row, whatever state it is in."""
        async with self._shelf.snapshot_lock(row.name):
            if (record := self._shelf.snapshots.get(row.id)) is not None:
                await self.teardown(record)

    async def teardown(self, record: SnapshotRecord) -> None:
        """Remove every trace of it; for who holds its lock. Safe to repeat.

        When that fails the row stays, with the reason, and it is tried again later.
        """
        shelf = self._shelf
        record = shelf.snapshots.put(replace(record, state=move_snapshot(record, VolumeVerb.REMOVE)))
        try:
            await shelf.call(
                _stand_in(record), "delete snapshot", shelf.kind(record.spec).delete_snapshot(record)
            )
        except CribError as error:
            shelf.core.figures.teardown_failures.add(("volume",))
            shelf.snapshots.put(replace(record, problem=str(error)))
            shelf.core.retries.later(record.id, CLEAN_UP, lambda: self.discard(record))
            raise
        shelf.snapshots.remove(record)

    async def discard(self, record: SnapshotRecord) -> None:
        """Try again to take away what could not be removed."""
        async with self._shelf.snapshot_lock(record.name):
            now = self._shelf.snapshots.get(record.id)
            if now is not None and now.state is not SnapshotState.READY:
                await self.teardown(now)


def _stand_in(snapshot: SnapshotRecord) -> VolumeRecord:
    """The volume that a call about a snapshot is of, which may be gone."""
    name = VolumeName(snapshot.name.namespace, snapshot.volume_name)
    return VolumeRecord(snapshot.volume, name, snapshot.spec, VolumeState.READY, snapshot.created_at)
