"""The files of a volume to an archive, and from one. The daemon uses the volume meanwhile, as a pod does."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from crib.engine.volumes.access import refuse_beside
from crib.engine.volumes.making import Created, Making, VolumeOrder
from crib.engine.volumes.publishing import Publishing
from crib.engine.volumes.shelf import VolumeShelf
from crib.model.errors import AlreadyExists, CribError, WrongState
from crib.model.volumes import PodOfUse, VolumeDescription, VolumeName, VolumeRecord, VolumeUse
from crib.ports.volumes import VolumeArchives

_log = logging.getLogger(__name__)
OURSELVES = PodOfUse("cribd-copy", "cribd", "copy")
"""Stands in for a pod while files are copied."""


class Copies:
    """The verbs. Nothing but its pods has to do with a volume while it is filled."""

    def __init__(self, shelf: VolumeShelf, making: Making, publishing: Publishing) -> None:
        self._shelf = shelf
        self._making = making
        self._publishing = publishing
        self._archives: VolumeArchives = shelf.core.ports.volumes.archives

    async def export(self, text: str, path: str) -> int:
        """Write its files to a new archive, or a raw device to a plain image; the size of that. NotFound;
        WrongState where no other may use the volume now. Pods come and go meanwhile.
        """
        name = self._shelf.volume(text).name
        async with self._shelf.lock(name):
            record, use = await self._begin(self._shelf.volume(str(name)), read_only=True)
        try:
            return await self._copied(
                record, "export", self._archives.write(use.path, path, _description(record))
            )
        finally:
            async with self._shelf.lock(name):
                await self._end(record, use)

    async def load(self, order: VolumeOrder, path: str) -> tuple[Created, int]:
        """Make a volume, and fill it from an archive or a directory, or a raw device from a plain image.

        Answers with the volume and the bytes that were written. AlreadyExists.

        What an archive of a volume says of it holds where the order says nothing. When that fails there is no
        volume.
        """
        name = order.name
        taken: list[str] = []
        if not order.spec.block and (found := await self._archives.describe(path)) is not None:
            order, taken = _as_described(order, found)
        async with self._shelf.lock(name):
            made = await self._making.create_locked(order)
            if not made.is_new:
                raise AlreadyExists(f"volume {name} is there already")
            try:
                record, use = await self._begin(made.record, read_only=False)
                try:
                    size = await self._copied(record, "import", self._archives.read(path, use.path))
                finally:
                    await self._end(record, use)
            except Exception:
                await self._discard(name)
                raise
            return replace(made, warnings=(*made.warnings, *taken)), size

    async def _copied(self, record: VolumeRecord, stage: str, work: Coroutine[Any, Any, int]) -> int:
        limit = self._shelf.core.settings.volumes.copy_timeout
        return await self._shelf.call(record, stage, work, limit)

    async def _discard(self, name: VolumeName) -> None:
        record = self._shelf.current(name)
        if record is not None and not record.uses:
            with contextlib.suppress(Exception):  # it is tried again later, and its row says why
                await self._making.teardown(record)

    async def _begin(self, record: VolumeRecord, *, read_only: bool) -> tuple[VolumeRecord, VolumeUse]:
        """Have its files, as a pod has them; for who holds its lock."""
        facts = await self._shelf.facts(record.spec)
        if not (read_only or facts.writable):
            text = f"volume {record.name} cannot be filled: its kind, {record.spec.kind}, is read-only"
            raise WrongState(text)
        refuse_beside(record, OURSELVES)
        use = VolumeUse(OURSELVES, f"copy-{secrets.token_hex(4)}", read_only, since=self._shelf.core.clock())
        try:
            return await self._publishing.attach(record, use, facts)
        except Exception:
            await self._end(record, use)
            raise

    async def _end(self, record: VolumeRecord, use: VolumeUse) -> None:
        """Give them back; for who holds the lock. What fails is logged, and done by a check or a start."""
        now = self._shelf.current(record.name)
        if now is not None:
            try:
                await self._publishing.detach(now, use)
            except CribError as error:
                _log.warning("volume %s: what a copy has left is kept: %s", record.name, error)


def _description(record: VolumeRecord) -> VolumeDescription:
    """What another node can make use of: no secrets, and nothing of this node's."""
    spec = record.spec
    return VolumeDescription(
        name=str(record.name),
        kind=spec.kind,
        storage_class=spec.storage_class,
        driver=spec.driver,
        capacity=record.capacity or spec.capacity,
        access_modes=spec.access_modes,
        fs_type=spec.fs_type,
        labels=spec.labels,
        parameters=spec.parameters,
    )


def _as_described(order: VolumeOrder, found: VolumeDescription) -> tuple[VolumeOrder, list[str]]:
    """The order with size, access modes and labels of an archive where it has none, and what was taken.

    Kind, class and parameters are this node's affair: an archive chooses no driver and no place here.
    """
    spec, taken = order.spec, []
    if found.capacity and not spec.capacity:
        spec = replace(spec, capacity=found.capacity)
        taken.append(f"capacity {found.capacity}")
    if found.access_modes and found.access_modes != spec.access_modes and not order.says_modes:
        spec = replace(spec, access_modes=found.access_modes)
        taken.append(f"access modes {', '.join(found.access_modes)}")
    labels = {key: value for key, value in found.labels.items() if key not in spec.labels}
    if labels:
        spec = replace(spec, labels={**labels, **spec.labels})
        taken.append(f"labels {', '.join(sorted(labels))}")
    text = f"as the archive of {found.name or 'a volume'} says: {'; '.join(taken)}"
    return replace(order, spec=spec), [text] if taken else []
