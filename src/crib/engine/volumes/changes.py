"""A volume that is there gets larger, and tells how full it is."""

from __future__ import annotations

from dataclasses import replace

from crib.engine.volumes.shelf import VolumeShelf
from crib.model.errors import InvalidRequest, WrongState
from crib.model.events import EventKind
from crib.model.volumes import VolumeRecord, VolumeUsage


class VolumeChanges:
    """The verbs."""

    def __init__(self, shelf: VolumeShelf) -> None:
        self._shelf = shelf

    async def resize(self, text: str, capacity: int) -> VolumeRecord:
        """Give it at least so many bytes, also while pods use it.

        NotFound; WrongState where its kind cannot; InvalidRequest for less than it has.
        """
        shelf = self._shelf
        name = shelf.volume(text).name
        async with shelf.lock(name):
            record = shelf.volume(str(name))
            facts = await shelf.facts(record.spec)
            if not facts.expands:
                raise WrongState(f"volume {name} cannot be resized: {facts.sizes or 'its kind cannot'}")
            if capacity < max(record.capacity, 1):
                text = f"is {capacity}, and volume {name} has {record.capacity}: it never gets smaller"
                raise InvalidRequest(text, field="capacity")
            got = await shelf.call(record, "resize", shelf.kind(record.spec).expand(record, capacity))
            spec = replace(record.spec, capacity=capacity)
            record = shelf.put(replace(record, spec=spec, capacity=got))
            shelf.core.history.happened(EventKind.VOLUME, "resized", str(name), f"{got} bytes")
            return record

    async def usage(self, text: str) -> VolumeUsage:
        """How full it is. It is asked without the lock: a verb that hangs keeps nobody from a look."""
        record = self._shelf.volume(text)
        return await self._shelf.call(record, "usage", self._shelf.kind(record.spec).usage(record))
