"""Requests for the same thing share one piece of work: a retry joins what runs already.

The kubelet gives up after its deadline and asks again. The work itself goes on in a task of the keeper;
every caller waits for that task behind a shield, so a caller's deadline or death ends its waiting only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from crib.engine.keeper import TaskKeeper
from crib.model.errors import Unavailable

R = TypeVar("R")


@dataclass(slots=True)
class _Work(Generic[R]):
    task: asyncio.Task[R]
    subject: object
    callers: int = 0
    timer: asyncio.TimerHandle | None = None
    """Ends the work when it fires: set while nobody waits."""


class Joins(Generic[R]):
    """At most one running task for each key."""

    def __init__(self, keeper: TaskKeeper, verb: str, *, linger: float | None = None) -> None:
        """`linger`: seconds that work goes on after its last caller has gone; None lets it end by itself."""
        self._keeper = keeper
        self._verb = verb
        self._linger = linger
        self._works: dict[Hashable, _Work[R]] = {}

    def running(self, key: Hashable) -> object | None:
        """The subject of the work that runs under `key`; None when none does."""
        work = self._works.get(key)
        return None if work is None else work.subject

    def subjects(self) -> list[object]:
        """Of all work that runs."""
        return [work.subject for work in self._works.values()]

    async def join(self, key: Hashable, subject: object, start: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """The result of the work that runs under `key`, which is started if it does not run yet.

        Unavailable when the work was ended before it was done, as the daemon stops.
        """
        work = self._works.get(key) or self._begin(key, subject, start())
        if work.timer is not None:
            work.timer.cancel()
            work.timer = None
        work.callers += 1
        try:
            return await asyncio.shield(work.task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if work.task.cancelled() and not (waiter and waiter.cancelling()):
                raise Unavailable(f"{self._verb} was ended before it was done: try again") from None
            raise
        finally:
            work.callers -= 1
            if work.callers == 0 and self._linger is not None and not work.task.done():
                loop = asyncio.get_running_loop()
                work.timer = loop.call_later(self._linger, self._end, key, work)

    def is_abandoned(self, key: Hashable) -> bool:
        """Whether work runs under `key` that nobody waits for any more."""
        work = self._works.get(key)
        return work is not None and work.callers == 0

    def end_abandoned(self, key: Hashable) -> None:
        """End the work that runs under `key` if nobody waits for it any more."""
        if self.is_abandoned(key):
            self._end(key, self._works[key])

    def _begin(self, key: Hashable, subject: object, coroutine: Coroutine[Any, Any, R]) -> _Work[R]:
        work = self._works[key] = _Work(self._keeper.start(f"{self._verb} {key}", coroutine), subject)
        work.task.add_done_callback(lambda _: self._forget(key, work))
        return work

    def _end(self, key: Hashable, work: _Work[R]) -> None:
        # Forgotten at once: who comes now must not join work that is about to end.
        self._forget(key, work)
        work.task.cancel()

    def _forget(self, key: Hashable, work: _Work[R]) -> None:
        if work.timer is not None:
            work.timer.cancel()
        if self._works.get(key) is work:
            del self._works[key]
