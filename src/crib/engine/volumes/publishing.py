"""A pod's volumes: to it before it is run, and from it when it is removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crib.engine.volumes.access import is_read_only, refuse_beside
from crib.engine.volumes.making import Making, VolumeOrder
from crib.engine.volumes.shelf import STAGES, VolumeShelf
from crib.model.errors import AlreadyExists, Broken, CribError, Exhausted, NotFound
from crib.model.volume_lifecycle import UseVerb, move_use
from crib.model.volumes import (
    MAX_USES,
    PodOfUse,
    Reclaim,
    StageState,
    UseState,
    VolumeName,
    VolumeRecord,
    VolumeState,
    VolumeUse,
)
from crib.ports.volumes import KindFacts
from crib.tasks.groups import Beside

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WantedVolume:
    """A volume that a pod is to get."""

    volume: str
    """Its name in the pod."""
    name: str
    """Of the volume, in the pod's namespace."""
    order: VolumeOrder | None = None
    """Make the volume by this when there is none of that name; None: it must be there."""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """A volume that a pod has got."""

    record: VolumeRecord
    use: VolumeUse
    created: bool = False
    """This call has made the volume."""
    is_new: bool = False
    """The pod did not have it before this call."""
    has_group: bool = False
    """Its files belong to the pod's group, whoever else cares for that."""
    warnings: Sequence[str] = ()


class Publishing:
    """The verbs. Volumes of one pod are worked on beside each other; at any time one lock is held by each."""

    def __init__(self, shelf: VolumeShelf, making: Making) -> None:
        self._shelf = shelf
        self._making = making

    async def publish(self, pod: PodOfUse, wanted: Sequence[WantedVolume]) -> list[Published]:
        """All of them, in their order; when one fails, what this call gave the pod is taken back."""
        core = self._shelf.core
        core.refuse_if_faulty()
        timeline = core.beforehand.of(pod.uid)
        token = STAGES.set(timeline)
        try:
            with timeline("PublishVolumes", pod.name):
                return await self._publish_all(pod, wanted)
        finally:
            STAGES.reset(token)

    async def _publish_all(self, pod: PodOfUse, wanted: Sequence[WantedVolume]) -> list[Published]:
        if len(wanted) == 1:
            return [await self._publish(pod, wanted[0])]
        async with Beside() as beside:
            tasks = [beside.start(f"volume {one.volume}", self._publish(pod, one)) for one in wanted]
            await asyncio.wait(tasks)
        failures = [error for task in tasks if (error := task.exception()) is not None]
        if not failures:
            return [task.result() for task in tasks]
        for task in tasks:
            if task.exception() is None and task.result().is_new:
                await self._take_back(task.result())
        raise failures[0]

    async def _publish(self, pod: PodOfUse, wanted: WantedVolume) -> Published:
        name = VolumeName(pod.namespace, wanted.name)
        async with self._shelf.lock(name):
            record, created, warnings = await self._volume(pod, name, wanted)
            facts = await self._shelf.facts(record.spec)
            known = record.use(pod.uid, wanted.volume)
            use = VolumeUse(
                pod,
                wanted.volume,
                is_read_only(record, facts, asked=wanted.read_only),
                since=known.since if known is not None else self._shelf.core.clock(),
            )
            refuse_beside(record, pod)
            if len(record.uses) >= MAX_USES and known is None:
                raise Exhausted(f"volume {name} has {MAX_USES} uses, which is the limit")
            try:
                record, use = await self.attach(record, use, facts)
            except Exception:
                if known is None:
                    await self._undo(name, use, created=created)
                raise
        has_group = facts.gives_group and pod.fs_group is not None
        return Published(record, use, created, known is None, has_group, warnings)

    async def _volume(
        self, pod: PodOfUse, name: VolumeName, wanted: WantedVolume
    ) -> tuple[VolumeRecord, bool, Sequence[str]]:
        record = self._shelf.current(name)
        is_there = record is not None and record.state is VolumeState.READY
        if wanted.order is None:
            if record is None or not is_there:
                raise NotFound(f"there is no volume {name}")
            return record, False, ()
        if record is not None and is_there and record.spec.owner not in ("", pod.uid):
            raise AlreadyExists(f"volume {name} goes with another pod, of uid {record.spec.owner}")
        made = await self._making.create_locked(wanted.order)
        return made.record, made.is_new, made.warnings

    async def attach(
        self, record: VolumeRecord, use: VolumeUse, facts: KindFacts
    ) -> tuple[VolumeRecord, VolumeUse]:
        """Stage it if need be, and publish it; for who holds its lock. Safe to repeat."""
        shelf = self._shelf
        has = record.use(use.pod.uid, use.volume)
        if has is not None and has.state is UseState.PUBLISHED:
            # The pod has it, and may be running: a kill now must not make a start take it back.
            use = replace(has, pod=use.pod, read_only=use.read_only, since=use.since, problem="")
        else:
            use = replace(use, state=move_use(use, UseVerb.BEGIN))
        record = shelf.put(
            replace(
                record,
                uses=with_use(record, use),
                boot_id=shelf.core.facts.boot_id,
            )
        )
        if facts.stages and record.stage is not StageState.STAGED:
            record = shelf.put(replace(record, stage=StageState.STAGING))
            attachment = await shelf.call(record, "stage", shelf.kind(record.spec).stage(record))
            record = shelf.put(replace(record, stage=StageState.STAGED, attachment=dict(attachment)))
        path = await shelf.call(record, "publish", shelf.kind(record.spec).publish(record, use))
        use = replace(use, state=move_use(use, UseVerb.PUBLISH), path=path, problem="")
        return shelf.put(replace(record, uses=with_use(record, use), problem="")), use

    async def attach_all(self, record: VolumeRecord) -> VolumeRecord:
        """Stage and publish what its pods have to have, whatever of that is there; for who holds its lock."""
        facts = await self._shelf.facts(record.spec)
        for use in record.uses:
            record, _ = await self.attach(record, use, facts)
        return record

    async def detach(self, record: VolumeRecord, use: VolumeUse) -> VolumeRecord:
        """The teardown of one use, and of what was done for all pods when it was the last; for who holds the
        lock. Safe to repeat. When a step fails the use stays, with the reason.
        """
        shelf = self._shelf
        use = replace(use, state=move_use(use, UseVerb.UNPUBLISH))
        record = shelf.put(replace(record, uses=with_use(record, use)))
        try:
            await shelf.call(record, "unpublish", shelf.kind(record.spec).unpublish(record, use))
        except CribError as error:
            shelf.core.figures.teardown_failures.add(("volume",))
            shelf.put(replace(record, uses=with_use(record, replace(use, problem=str(error)))))
            raise
        record = shelf.put(replace(record, uses=without_use(record, use)))
        try:
            return await self._making.unstage(record)
        except CribError as error:
            shelf.core.figures.teardown_failures.add(("volume",))
            shelf.put(replace(shelf.volumes.get(record.id) or record, problem=str(error)))
            raise

    async def _undo(self, name: VolumeName, use: VolumeUse, *, created: bool) -> None:
        """Take back what a failed publish has done; the pod's next call tries again what cannot be."""
        record = self._shelf.current(name)
        if record is None:
            return
        try:
            record = await self.detach(record, use)
            if created:
                await self._making.teardown(record)
        except CribError as error:
            _log.warning("volume %s: what a failed publish has left is kept: %s", name, error)

    async def _take_back(self, published: Published) -> None:
        name = published.record.name
        async with self._shelf.lock(name):
            await self._undo(name, published.use, created=published.created)

    async def unpublish(self, uid: str) -> list[VolumeName]:
        """Take all volumes from a pod, and remove those that go with it; the names of these.

        All is tried before Broken says what failed; that is done by the next call.
        """
        concerned = [row.name for row in self._shelf.volumes if row.uses_of(uid) or row.spec.owner == uid]
        removed, failures = [], []
        for name in concerned:
            try:
                if await self._release(name, uid):
                    removed.append(name)
            except CribError as error:
                failures.append(str(error))
        if failures:
            raise Broken(f"volumes of the pod with uid {uid}: {'; '.join(failures)}")
        return removed

    async def _release(self, name: VolumeName, uid: str) -> bool:
        """Whether the volume went with the pod."""
        async with self._shelf.lock(name):
            record = self._shelf.current(name)
            if record is None:
                return False
            for use in record.uses_of(uid):
                record = await self.detach(record, use)
            if record.spec.owner != uid or record.spec.reclaim is Reclaim.RETAIN or record.uses:
                return False
            await self._making.teardown(record)
            return True


def with_use(record: VolumeRecord, use: VolumeUse) -> tuple[VolumeUse, ...]:
    """The record's uses with this one, in the place of an earlier one of the same pod and name."""
    if record.use(use.pod.uid, use.volume) is None:
        return (*record.uses, use)
    return tuple(use if one.key == use.key else one for one in record.uses)


def without_use(record: VolumeRecord, use: VolumeUse) -> tuple[VolumeUse, ...]:
    return tuple(one for one in record.uses if one.key != use.key)
