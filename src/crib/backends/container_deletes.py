"""Taking away what there is of a container: one delete at a time, also by a thread that came too late."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from weakref import WeakValueDictionary

from crib.backends.failures import trying
from crib.backends.streams.logs import clear_away
from crib.model.ids import ContainerId


class ContainerDeletes(ABC):
    """For what makes containers. Only `delete` cleans up, and it needs nothing but the id."""

    def __init__(self) -> None:
        self._deletes: WeakValueDictionary[ContainerId, asyncio.Lock] = WeakValueDictionary()

    async def delete(self, container: ContainerId, *, made: bool = True) -> None:
        """Take away all there is of a container; safe to repeat. Not its log, unless it was never `made`."""
        what = f"delete of container {container}"
        async with self._deletes.setdefault(container, asyncio.Lock()):
            with trying(what):
                await self._delete(what, container, made=made)

    @abstractmethod
    async def _delete(self, what: str, container: ContainerId, *, made: bool) -> None:
        """`delete`, which is alone with this container."""

    def _clear_away(self, container: ContainerId) -> None:
        """After a thread that came too late, see `ContainerBundles.make`."""
        clear_away(f"create of container {container}", self.delete(container))
