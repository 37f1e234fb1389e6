"""What is wrong with volumes, and which of them nobody needs any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crib.engine.mending import mended
from crib.engine.volumes.parts import VolumeParts
from crib.model.errors import CribError
from crib.model.finding import Finding
from crib.model.volumes import (
    Reclaim,
    SnapshotState,
    StageState,
    UseState,
    VolumeName,
    VolumeRecord,
    VolumeState,
    VolumeUse,
)

AREA = "volumes"
_AGAIN = "it is published again"


@dataclass(frozen=True, slots=True)
class Pruned:
    """One thing that went, or would go."""

    name: VolumeName
    reason: str
    removed: bool
    """The volume; otherwise only a use of it."""
    problem: str = ""
    """Why it is still there."""


class VolumeUpkeep:
    """Check and prune. What a verb is at is left alone."""

    def __init__(self, parts: VolumeParts) -> None:
        self._shelf = parts.shelf
        self._making = parts.making
        self._publishing = parts.publishing
        self._snapshots = parts.snapshots

    async def check(self, texts: Sequence[str] = (), *, repair: bool) -> AsyncIterator[Finding]:
        """Of these volumes, or of all, with their snapshots and what is left over. NotFound."""
        rows = [self._shelf.volume(text) for text in texts] or list(self._shelf.volumes)
        gone = await self._gone(rows)
        for row in rows:
            for found in await self._check(row.name, gone, repair=repair):
                yield found
        if texts:
            return
        async for found in self._broken_snapshots(repair=repair):
            yield found
        async for found in self._leftovers(repair=repair):
            yield found

    async def _gone(self, rows: Iterable[VolumeRecord]) -> Collection[str]:
        """Directories of pods' files that are not there any more."""
        files = {use.pod.files for row in rows for use in row.uses if use.pod.files}
        return await self._shelf.core.ports.volumes.ground.gone(files) if files else ()

    async def _check(self, name: VolumeName, gone: Collection[str], *, repair: bool) -> list[Finding]:
        """All of one volume, before anything is told: who asks may be slow, and the lock is held."""
        lock = self._shelf.lock(name)
        if lock.locked():
            text = "is not checked: a verb is working on it (crib work)"
            return [Finding(AREA, str(name), text, is_note=True)]
        async with lock:
            record = self._shelf.current(name)
            if record is None:
                return []
            if record.state is not VolumeState.READY:
                text = record.problem or f"was interrupted in state {record.state}"
                found = Finding(AREA, str(name), text, "its remains are removed")
                return [await self._mend(found, self._making.teardown(record)) if repair else found]
            uses = [one async for one in self._check_uses(record, gone, repair=repair)]
            now = self._shelf.current(name) or record
            return uses + [one async for one in self._check_kind(now, repair=repair)]

    async def _check_uses(
        self, record: VolumeRecord, gone: Collection[str], *, repair: bool
    ) -> AsyncIterator[Finding]:
        for use in record.uses:
            whose = f"{record.name} of pod {use.pod}"
            if use.pod.files in gone:
                found = Finding(
                    AREA, whose, f"{use.pod.files} is gone, and so is the pod", "it is taken from it"
                )
            elif use.state is UseState.UNPUBLISHING:
                found = Finding(
                    AREA, whose, use.problem or f"was interrupted in state {use.state}", "it is taken"
                )
            else:
                continue
            if repair:
                now = self._shelf.current(record.name) or record
                found = await self._mend(found, self._publishing.detach(now, use))
            yield found
        record = self._shelf.current(record.name) or record
        if record.stage is not StageState.UNSTAGED and not record.uses:
            found = Finding(
                AREA, str(record.name), f"no pod uses it, and it is {record.stage}", "it is unstaged"
            )
            yield await self._mend(found, self._making.unstage(record)) if repair else found

    async def _check_kind(self, record: VolumeRecord, *, repair: bool) -> AsyncIterator[Finding]:
        """What lies on the host against the row, and uses that pods should have."""
        found = [
            Finding(AREA, f"{record.name} of pod {use.pod}", use.problem or "is not published", _AGAIN)
            for use in record.uses
            if use.state is UseState.PUBLISHING
        ]
        try:
            found += await self._shelf.call(record, "check", self._shelf.kind(record.spec).check(record))
        except CribError as error:
            found.append(Finding(AREA, str(record.name), f"cannot be checked: {error}"))
        to_mend = [one for one in found if one.mend]
        if to_mend and repair:
            anew = replace(record, stage=StageState.UNSTAGED)
            fixed = await mended(self._shelf.core, to_mend, self._publishing.attach_all(anew))
            found = [one for one in found if not one.mend] + fixed
        for one in found:
            yield one

    async def _broken_snapshots(self, *, repair: bool) -> AsyncIterator[Finding]:
        for row in self._shelf.snapshots:
            if row.state is SnapshotState.READY or self._shelf.snapshot_lock(row.name).locked():
                continue
            text = row.problem or f"was interrupted in state {row.state}"
            found = Finding(AREA, f"snapshot {row.name}", text, "its remains are removed")
            yield await self._mend(found, self._snapshots.discard(row)) if repair else found

    async def _leftovers(self, *, repair: bool) -> AsyncIterator[Finding]:
        """What lasts without a row is only told: a person may need what is in it."""
        ground, shelf = self._shelf.core.ports.volumes.ground, self._shelf
        for left in await ground.leftovers():
            if shelf.volumes.get(left.of) is not None or shelf.snapshots.get(left.of) is not None:
                continue
            if left.lasts:
                text = "belongs to no record: import what is needed of it, and remove it"
                yield Finding(AREA, left.path, text)
                continue
            found = Finding(AREA, left.path, "belongs to no record", "it is unmounted and removed")
            yield await self._mend(found, ground.clear(left)) if repair else found

    async def sweep(self, *, dry: bool = False) -> list[str]:
        """Unmount and remove what there is of this boot and belongs to no record; its paths."""
        ground, swept = self._shelf.core.ports.volumes.ground, []
        for left in await ground.leftovers():
            if left.lasts or self._shelf.volumes.get(left.of) is not None:
                continue
            if not dry:
                await ground.clear(left)
            swept.append(left.path)
        return swept

    async def _mend(self, found: Finding, work: Coroutine[Any, Any, object]) -> Finding:
        (one,) = await mended(self._shelf.core, [found], work)
        return one

    async def prune(self, *, everything: bool, dry: bool) -> AsyncIterator[Pruned]:
        """Take volumes from pods whose files are gone, and remove volumes that went with such pods; with
        `everything` also those that nobody uses, unless they are to be retained.
        """
        rows = [row for row in self._shelf.volumes if row.state is VolumeState.READY]
        gone = await self._gone(rows)
        for row in rows:
            for one in self._prunable(row, gone, everything=everything):
                yield one if dry else await self._prune(one, gone)

    def _prunable(self, row: VolumeRecord, gone: Collection[str], *, everything: bool) -> Iterator[Pruned]:
        stale = [use for use in row.uses if use.pod.files in gone]
        for use in stale:
            yield Pruned(row.name, f"pod {use.pod} is gone: {use.pod.files} is not there", removed=False)
        if len(stale) < len(row.uses):
            return
        if row.spec.reclaim is Reclaim.RETAIN:
            return
        if row.spec.owner:
            yield Pruned(row.name, f"it goes with the pod of uid {row.spec.owner}", removed=True)
        elif everything:
            yield Pruned(row.name, "no pod uses it", removed=True)

    async def _prune(self, pruned: Pruned, gone: Collection[str]) -> Pruned:
        try:
            async with self._shelf.lock(pruned.name):
                record = self._shelf.current(pruned.name)
                if record is not None and record.state is VolumeState.READY:
                    await self._drop(record, [use for use in record.uses if use.pod.files in gone], pruned)
        except CribError as error:
            return replace(pruned, problem=str(error))
        return pruned

    async def _drop(self, record: VolumeRecord, stale: Sequence[VolumeUse], pruned: Pruned) -> None:
        for use in stale:
            record = await self._publishing.detach(record, use)
        if pruned.removed and not record.uses:
            await self._making.teardown(record)
