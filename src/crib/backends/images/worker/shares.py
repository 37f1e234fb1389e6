"""Who may do how much at once: a registry's share of the transfers, places for threads that write, and their
memory.

A transfer costs a connection and a file, a writer costs threads and memory. So whoever waits for bytes holds
no place of a writer that somebody else could use, and no registry can fill the node with transfers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

MAX_TRANSFERS = 32
"""Blobs that come at once, over all requests; a registry that has none under way gets one beyond."""
MAX_OF_REGISTRY = 12
"""Blobs that come from one registry at once."""
MAX_REGISTRIES = 224
"""Transfers beyond MAX_TRANSFERS, the only ones of their registries. Each takes a file and a few
connections, of the worker's 4096 descriptors, and some 50 kB."""
MAX_WRITERS = 8
"""Layers that are written at once, over all requests; each has two more threads while it is written."""

_RESERVE = 4
"""One part in so many of the worker's memory is for all but the layers: pieces under way, connections."""
_OWN = 6
"""One part in so many of the layers' memory is split among the writers; they share the rest."""

_Taken = TypeVar("_Taken")


@dataclass(frozen=True, slots=True)
class _Waiting:
    registry: str
    pull: object
    turn: asyncio.Future[None]


class TransferShares:
    """Who may begin: of those that may, the one whose pull has the fewest under way, then the oldest."""

    def __init__(self) -> None:
        self._registries: Counter[str] = Counter()
        self._pulls: Counter[object] = Counter()
        self._waiting: list[_Waiting] = []

    @contextlib.asynccontextmanager
    async def share(self, registry: str, pull: object) -> AsyncIterator[None]:
        """One transfer for `pull` (any object that stands for it); waits for its turn."""
        waiting = _Waiting(registry, pull, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._admit()
        try:
            await waiting.turn
            yield
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            else:
                self._count(waiting, -1)
                self._admit()

    def _admit(self) -> None:
        while ready := [one for one in self._waiting if self._may_begin(one.registry)]:
            first = min(ready, key=lambda one: self._pulls[one.pull])
            self._waiting.remove(first)
            self._count(first, 1)
            if not first.turn.done():
                first.turn.set_result(None)

    def _may_begin(self, registry: str) -> bool:
        under_way = self._registries.total()
        own = self._registries[registry]
        if own == 0:
            return under_way < MAX_TRANSFERS + MAX_REGISTRIES
        return own < MAX_OF_REGISTRY and under_way < MAX_TRANSFERS

    def _count(self, one: _Waiting, change: int) -> None:
        self._registries[one.registry] += change
        self._pulls[one.pull] += change
        # Without those at zero.
        self._registries, self._pulls = +self._registries, +self._pulls


class Crowded(Exception):
    """For the thread that writes: its layer needs memory that other layers have. It may wait for them."""


class Memory:
    """What the layers that are written may take of a worker's `limit` (bytes; 0: no limit), by estimate.

    Each has a part of its own, so that none stops a layer of everyday size; the rest goes to whoever needs it
    first. Threads use it.
    """

    def __init__(self, limit: int = 0) -> None:
        budget = limit - limit // _RESERVE if limit else sys.maxsize
        self._own = budget // (_OWN * MAX_WRITERS)
        self._shared = budget - MAX_WRITERS * self._own
        self.most = self._own + self._shared
        """What one layer can have when it is alone."""
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def is_shared(self) -> bool:
        """Whether a layer has more than its own part."""
        return self._taken > 0

    def change(self, before: int, now: int) -> None:
        """A layer needs `now` bytes and no longer `before`; Crowded, and no change, when they are not to be
        had."""
        more = max(0, now - self._own) - max(0, before - self._own)
        if not more:
            return
        with self._lock:
            if more > 0 and self._taken + more > self._shared:
                raise Crowded
            self._taken += more


class Writers:
    """Threads that write layers. A place is taken before `run`, and given back after it."""

    def __init__(self, memory: int = 0) -> None:
        self.memory = Memory(memory)
        self._given = asyncio.Event()
        self._pool = ThreadPoolExecutor(MAX_WRITERS, thread_name_prefix="layer")
        self._places = asyncio.Semaphore(MAX_WRITERS)
        self._waiting = 0

    def wanted(self) -> bool:
        """Whether somebody who has all bytes waits for a place or for memory. Threads may ask, too."""
        return self._waiting > 0

    async def take_free(self) -> bool:
        """Take a place if one is free; never waits."""
        return not self._places.locked() and await self._places.acquire()

    async def take(self) -> None:
        """Wait for a place."""
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1

    async def room(self) -> None:
        """Wait until no layer has more than its own part of the memory."""
        self._waiting += 1
        try:
            while self.memory.is_shared:
                self._given.clear()
                await self._given.wait()
        finally:
            self._waiting -= 1

    def give(self) -> None:
        """Give a place back."""
        self._places.release()
        self._given.set()

    async def write_whole(self, write: Callable[[], Awaitable[_Taken]]) -> _Taken:
        """Have a layer written of which all bytes are here: `write` has a place, and comes again when it was
        Crowded."""
        while True:
            await self.take()
            try:
                return await write()
            except Crowded:
                pass
            finally:
                self.give()
            await self.room()

    async def run(self, work: Callable[[], _Taken], stop: Callable[[], None], temporary: str) -> _Taken:
        """Have a thread do `work`, which writes the file `temporary`. When we are cancelled it is told to
        `stop`, and has let go of its files when this ends."""
        job = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            stop()
            await asyncio.wait([job])
            _ = job.cancelled() or job.exception()
            # It may have ended at the moment that it was told to stop.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def close(self) -> None:
        """End the threads; nothing may be under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
