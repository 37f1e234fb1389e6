"""Volumes come, and go: create, remove, and the one teardown."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from crib.engine.retries import CLEAN_UP
from crib.engine.volumes.access import users
from crib.engine.volumes.shelf import VolumeShelf
from crib.engine.volumes.specs import difference, filled, refuse_what_cannot_be, warnings_about
from crib.model.errors import (
    AlreadyExists,
    CribError,
    Exhausted,
    InvalidRequest,
    NotFound,
    WrongState,
)
from crib.model.events import EventKind
from crib.model.image import ImageRecord
from crib.model.volume_lifecycle import VolumeVerb, move_volume
from crib.model.volumes import (
    IMAGE,
    MAX_VOLUMES,
    Reclaim,
    SnapshotRecord,
    SnapshotState,
    StageState,
    VolumeName,
    VolumeRecord,
    VolumeSpec,
    VolumeState,
    new_volume_id,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VolumeOrder:
    """A volume as a client asks for it."""

    name: VolumeName
    spec: VolumeSpec
    reclaim: Reclaim | None = None
    """None: as the class says."""
    says_modes: bool = True
    """Its access modes were asked for, and are not only what is usual."""


@dataclass(frozen=True, slots=True)
class Created:
    """A volume that is there now."""

    record: VolumeRecord
    warnings: Sequence[str] = ()
    is_new: bool = True
    """This call has made it."""


ImageOf = Callable[[str], Awaitable[ImageRecord]]
"""The image of that name on this node, if it may be used; NotFound."""


class Making:
    """The verbs. Each of them holds the lock of the volume, but for those that say so."""

    def __init__(self, shelf: VolumeShelf, image_of: ImageOf) -> None:
        self._shelf = shelf
        self._image_of = image_of

    async def create(self, order: VolumeOrder) -> Created:
        """Make it, or answer with the one that is there already. AlreadyExists where that differs."""
        async with self._shelf.lock(order.name):
            return await self.create_locked(order)

    async def create_locked(self, order: VolumeOrder) -> Created:
        """The same, for who holds the lock."""
        shelf, settings = self._shelf, self._shelf.core.settings.volumes
        there = shelf.current(order.name)
        if there is not None and there.state is VolumeState.READY:
            asked = self._with_ids(order.spec, there)
            if problem := difference(there, asked, settings):
                raise AlreadyExists(f"volume {order.name} is there already: {problem}")
            warnings = tuple(warnings_about(there.spec, await shelf.facts(there.spec)))
            return Created(there, warnings, is_new=False)
        shelf.core.refuse_if_faulty()
        spec = filled(order.spec, order.reclaim, settings)
        spec = self._with_ids(spec)
        facts = await shelf.facts(spec)
        refuse_what_cannot_be(spec, facts)
        await shelf.kind(spec).check_spec(spec)
        if there is not None:  # what an earlier try has left
            await self.teardown(there)
        if len(shelf.volumes) >= MAX_VOLUMES:
            raise Exhausted(f"there are {MAX_VOLUMES} volumes on this node, which is the limit")
        return Created(await self._make(order.name, spec), tuple(warnings_about(spec, facts)))

    def _with_ids(self, spec: VolumeSpec, made: VolumeRecord | None = None) -> VolumeSpec:
        """With the ids of the snapshot or volume that it begins as.

        NotFound, unless that was removed after `made` was made of it.
        """
        shelf, has = self._shelf, made.spec if made is not None else None
        snapshot = self._id_of(spec.snapshot, shelf.snapshot, None if has is None else has.snapshot)
        clone_of = self._id_of(spec.clone_of, shelf.volume, None if has is None else has.clone_of)
        spec = replace(spec, snapshot=snapshot, clone_of=clone_of)
        if spec.snapshot and spec.clone_of:
            raise InvalidRequest("is set, and so is snapshot", field="clone_of")
        return spec

    def _id_of(
        self, text: str, find: Callable[[str], SnapshotRecord | VolumeRecord], made_of: str | None
    ) -> str:
        if not text:
            return ""
        try:
            return find(text).id
        except NotFound:
            if made_of is None:
                raise
            return made_of

    async def _make(self, name: VolumeName, spec: VolumeSpec) -> VolumeRecord:
        shelf = self._shelf
        snapshot, source = self._origin(spec), self._source(spec)
        record = VolumeRecord(new_volume_id(), name, spec, VolumeState.CREATING, shelf.core.clock())
        if spec.kind == IMAGE:
            image = await self._image_of(spec.source)
            layers = tuple(layer.diff_id for layer in image.layers)
            record = replace(record, image_id=image.id, layers=layers)
        record = shelf.put(record)
        limit = shelf.core.settings.volumes.copy_timeout if snapshot or source else 0.0
        kind = shelf.kind(record.spec)
        work = kind.create(record, snapshot) if source is None else kind.clone(record, source)
        try:
            made = await shelf.call(record, "create", work, limit)
        except Exception:
            await self._give_up(record)
            raise
        record = shelf.put(
            replace(
                record,
                state=move_volume(record, VolumeVerb.CREATE),
                handle=made.handle,
                context=dict(made.context),
                capacity=made.capacity,
            )
        )
        shelf.core.history.happened(EventKind.VOLUME, "created", str(name), f"{spec.kind} {record.id}")
        return record

    def _origin(self, spec: VolumeSpec) -> SnapshotRecord | None:
        """The snapshot that it begins as. InvalidRequest where that is of another kind, or is larger."""
        if not spec.snapshot:
            return None
        snapshot = self._shelf.snapshot(spec.snapshot)
        if snapshot.state is not SnapshotState.READY:
            raise WrongState(f"snapshot {snapshot.name} is {snapshot.state}", field="snapshot")
        _refuse_other_kind(spec, snapshot.spec, f"{snapshot.name} is of a volume", "snapshot")
        _refuse_smaller(spec, snapshot.size, f"snapshot {snapshot.name}")
        return snapshot

    def _source(self, spec: VolumeSpec) -> VolumeRecord | None:
        """The volume that it is to be like. InvalidRequest as of a snapshot."""
        if not spec.clone_of:
            return None
        source = self._shelf.volume(spec.clone_of)
        if source.state is not VolumeState.READY:
            raise WrongState(f"volume {source.name} is {source.state}", field="clone_of")
        _refuse_other_kind(spec, source.spec, f"volume {source.name} is", "clone_of")
        _refuse_smaller(spec, source.capacity, f"volume {source.name}")
        return source

    async def _give_up(self, record: VolumeRecord) -> None:
        """After a create that failed; what cannot be taken away now is tried again later."""
        try:
            await self.teardown(record)
        except CribError as error:
            _log.warning("volume %s is kept, its teardown failed: %s", record.name, error)

    async def remove(self, text: str) -> VolumeRecord:
        """Remove it with what it holds. NotFound; WrongState while a pod uses it."""
        name = self._shelf.volume(text).name
        async with self._shelf.lock(name):
            record = self._shelf.volume(str(name))
            refuse_while_used(record)
            await self.teardown(record)
            return record

    async def remove_row(self, row: VolumeRecord) -> None:
        """The same of a row, whatever state it is in."""
        async with self._shelf.lock(row.name):
            record = self._shelf.current(row.name)
            if record is not None:
                refuse_while_used(record)
                await self.teardown(record)

    async def teardown(self, record: VolumeRecord) -> None:
        """Remove every trace of a volume that nobody uses; for who holds its lock. Safe to repeat.

        When a step fails the row stays, with the reason, and it is tried again later.
        """
        shelf = self._shelf
        record = shelf.put(replace(record, state=move_volume(record, VolumeVerb.REMOVE)))
        try:
            record = await self.unstage(record)
            await shelf.call(record, "delete", shelf.kind(record.spec).delete(record))
        except CribError as error:
            self._keep(record, error)
            raise
        shelf.volumes.remove(record)
        shelf.core.history.happened(EventKind.VOLUME, "removed", str(record.name), record.spec.kind)

    def _keep(self, record: VolumeRecord, error: CribError) -> None:
        core = self._shelf.core
        core.figures.teardown_failures.add(("volume",))
        now = self._shelf.volumes.get(record.id) or record
        self._shelf.put(replace(now, problem=str(error)))
        core.retries.later(record.id, CLEAN_UP, lambda: self.discard(record))

    async def discard(self, record: VolumeRecord) -> None:
        """Try again to take away what could not be removed."""
        async with self._shelf.lock(record.name):
            now = self._shelf.volumes.get(record.id)
            if now is not None and now.state is not VolumeState.READY:
                await self.teardown(now)

    async def unstage(self, record: VolumeRecord) -> VolumeRecord:
        """Undo what was done in this boot, for a volume that no pod uses; for who holds the lock."""
        shelf = self._shelf
        if record.uses or not record.boot_id:
            return record
        if record.stage is not StageState.UNSTAGED:
            record = shelf.put(replace(record, stage=StageState.UNSTAGING))
            await shelf.call(record, "unstage", shelf.kind(record.spec).unstage(record))
        await shelf.core.ports.volumes.ground.tidy(record.id)
        return shelf.put(replace(record, stage=StageState.UNSTAGED, attachment={}, boot_id=""))


def _refuse_other_kind(spec: VolumeSpec, theirs: VolumeSpec, what: str, field: str) -> None:
    if (theirs.kind, theirs.driver, theirs.block) != (spec.kind, spec.driver, spec.block):
        of = f"{theirs.kind} {theirs.driver}".strip() + (", a raw device" if theirs.block else "")
        raise InvalidRequest(f"{what} of kind {of}", field=field)


def _refuse_smaller(spec: VolumeSpec, needed: int, what: str) -> None:
    if 0 < spec.capacity < needed:
        raise InvalidRequest(f"is {spec.capacity}, and {what} needs {needed}", field="capacity")


def refuse_while_used(record: VolumeRecord) -> None:
    """WrongState, naming who uses it."""
    if record.uses:
        raise WrongState(f"volume {record.name} is used by {users(record.uses)}")
