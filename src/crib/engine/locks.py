"""One lock for each noun; who holds it and who waits can be told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from weakref import WeakValueDictionary

from crib.tasks.keeper import at_stage


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock that somebody holds."""

    key: str
    """Id or name of what it is of."""
    holder: str
    """Name of the task."""
    seconds: float
    waiters: int


class TurnLock(asyncio.Lock):
    """A lock that notes who holds it, and whose awaiters are shown to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.holder: asyncio.Task[object] | None = None
        self.since = 0.0
        self.waiters = 0

    async def acquire(self) -> Literal[True]:
        if not self.locked():
            await super().acquire()
        else:
            self.waiters += 1
            try:
                with at_stage("waiting for its turn"):
                    await super().acquire()
            finally:
                self.waiters -= 1
        self.holder, self.since = asyncio.current_task(), time.monotonic()
        return True

    def release(self) -> None:
        self.holder = None
        super().release()


class Locks:
    """Each is there as long as somebody holds or awaits it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, TurnLock] = WeakValueDictionary()

    def of(self, key: str) -> TurnLock:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = TurnLock()
        return lock

    def held(self) -> Iterator[HeldLock]:
        """May be asked by another thread."""
        now = time.monotonic()
        for key, lock in list(self._locks.items()):
            holder = lock.holder
            if holder is not None:
                yield HeldLock(key, holder.get_name(), now - lock.since, lock.waiters)
