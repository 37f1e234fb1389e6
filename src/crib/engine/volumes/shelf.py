"""The records of volumes and snapshots, and the calls of kinds: each under a lock, in bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar

from crib.engine.core import Core
from crib.engine.locks import TurnLock
from crib.engine.tables import Table
from crib.model.errors import CribError, InvalidRequest, NotFound, Unavailable
from crib.model.volume_lifecycle import UseVerb, move_use
from crib.model.volumes import (
    SnapshotRecord,
    SnapshotState,
    StageState,
    VolumeName,
    VolumeRecord,
    VolumeSpec,
    VolumeState,
)
from crib.ports.volumes import KindFacts, VolumeKind
from crib.tasks.keeper import at_stage

T = TypeVar("T")
DEFAULT_NAMESPACE = "default"
VolumeStages = Callable[[str, str], AbstractContextManager[object]]
"""See StageTimer.__call__."""
STAGES: ContextVar[VolumeStages] = ContextVar("crib_volume_stages", default=at_stage)
"""What times the steps: a pod's timeline, while it gets its volumes."""
DRIVER_MARGIN = 5.0
"""Seconds beyond a driver's own time: who asks it says itself which of its calls had no answer."""


class VolumeShelf:
    """What the verbs of volumes share. No lock of another noun is taken while one of a volume is held."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.volumes = core.volumes
        self.snapshots = core.snapshots
        self._limits: dict[tuple[str, str], float] = {}
        """Of kinds and drivers that have told of theirs."""

    def kind(self, spec: VolumeSpec) -> VolumeKind:
        """InvalidRequest for one that there is not."""
        kinds = self.core.ports.volumes.kinds
        found = kinds.get(spec.kind)
        if found is None:
            known = ", ".join(sorted(kinds))
            raise InvalidRequest(f"there is no kind {spec.kind!r} (there is: {known})", field="kind")
        return found

    async def facts(self, spec: VolumeSpec) -> KindFacts:
        """What the kind can do; Unavailable where its driver does not answer."""
        work = self.kind(spec).facts(spec)
        facts = await self._bounded(f"volume kind {spec.kind}", "probe", spec, work)
        self._limits[spec.kind, spec.driver] = facts.call_limit
        return facts

    def volume(self, text: str) -> VolumeRecord:
        """A volume by NAME, NAMESPACE/NAME, its id or a beginning of it; NotFound."""
        record = _found(self.volumes, text)
        if record is None:
            raise NotFound(f"there is no volume {text!r}")
        return as_of_boot(record, self.core.facts.boot_id)

    def snapshot(self, text: str) -> SnapshotRecord:
        """The same of a snapshot."""
        record = _found(self.snapshots, text)
        if record is None:
            raise NotFound(f"there is no snapshot {text!r}")
        return record

    def lock(self, name: VolumeName) -> TurnLock:
        """Of the volume of that name, whether there is one or not."""
        return self.core.locks.of(f"volume {name}")

    def snapshot_lock(self, name: VolumeName) -> TurnLock:
        return self.core.locks.of(f"snapshot {name}")

    def current(self, name: VolumeName) -> VolumeRecord | None:
        """The row of that name as it holds in this boot. To be asked under its lock."""
        record = self.volumes.named(name)
        return record and as_of_boot(record, self.core.facts.boot_id)

    def put(self, record: VolumeRecord) -> VolumeRecord:
        """Record that it is now so."""
        return self.volumes.put(record)

    async def call(
        self,
        record: VolumeRecord,
        stage: str,
        work: Coroutine[Any, Any, T],
        limit: float = 0.0,
    ) -> T:
        """Await a call of the record's kind. Its errors name volume and stage; Unavailable when it takes
        longer than its driver's or kind's limit, or `limit` where that is given.
        """
        return await self._bounded(f"volume {record.name}", stage, record.spec, work, limit)

    def _limit(self, spec: VolumeSpec) -> float:
        settings = self.core.settings.volumes
        driver = settings.drivers.get(spec.driver)
        usual = settings.timeout if driver is None else driver.timeout + DRIVER_MARGIN
        return self._limits.get((spec.kind, spec.driver)) or usual

    async def _bounded(
        self, what: str, stage: str, spec: VolumeSpec, work: Coroutine[Any, Any, T], limit: float = 0.0
    ) -> T:
        bound = limit or self._limit(spec)
        try:
            with (
                STAGES.get()(f"volume {stage}", what.partition(" ")[2]),
                self.core.figures.volumes.timed(spec.kind, stage),
            ):
                async with asyncio.timeout(bound):
                    return await work
        except TimeoutError as error:
            text = str(error) or f"takes more than {bound:g} s"
            raise Unavailable(f"{what}: {stage}: {text}") from error
        except CribError as error:
            text = f"{what}: {stage}: {error.problem}"
            raise type(error)(text, field=error.field, of=error.of, reason=error.reason) from error


def as_of_boot(record: VolumeRecord, boot_id: str) -> VolumeRecord:
    """The row as it holds in this boot: what an earlier one had mounted is not there any more."""
    if record.boot_id in ("", boot_id):
        return record
    uses = tuple(replace(use, state=move_use(use, UseVerb.LOSE), path="") for use in record.uses)
    return replace(record, boot_id="", stage=StageState.UNSTAGED, attachment={}, uses=uses)


def volume_name(text: str) -> VolumeName:
    """NAME, which is in the namespace `default`, or NAMESPACE/NAME."""
    namespace, _, name = text.rpartition("/")
    return VolumeName(namespace or DEFAULT_NAMESPACE, name)


R = TypeVar("R", VolumeRecord, SnapshotRecord)


def _found(table: Table[R], text: str) -> R | None:
    """A name comes before an id that begins so."""
    row = table.named(volume_name(text))
    if row is None and "/" not in text:
        row = table.find(text)
    hidden = (VolumeState.CREATING, VolumeState.REMOVING, SnapshotState.CREATING, SnapshotState.REMOVING)
    return row if row is not None and (row.state not in hidden or row.problem) else None
