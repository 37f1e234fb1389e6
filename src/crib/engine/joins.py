"""Requests for the same thing share one piece of work: a retry joins what runs already.

The kubelet gives up after its deadline and asks again. The work itself continues in a task of the keeper;
a caller's deadline or death ends its waiting only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from crib.tasks.keeper import TaskKeeper, Work

R = TypeVar("R")


@dataclass(slots=True)
class _Joined(Generic[R]):
    work: Work[R]
    subject: object
    timer: asyncio.TimerHandle | None = None
    """Ends the work when it fires: set while nobody waits."""


class Joins(Generic[R]):
    """At most one running task for each key."""

    def __init__(self, keeper: TaskKeeper, verb: str, *, linger: Callable[[], float] | None = None) -> None:
        """`linger`: seconds that work continues after its last caller has gone; None: to its own end."""
        self._keeper = keeper
        self._verb = verb
        self._linger = linger
        self._joined: dict[Hashable, _Joined[R]] = {}

    def running(self, key: Hashable) -> object | None:
        """The subject of the work that runs under `key`; None when none does."""
        joined = self._joined.get(key)
        return None if joined is None else joined.subject

    def __iter__(self) -> Iterator[Hashable]:
        """The keys of all work that runs."""
        return iter(tuple(self._joined))

    def subjects(self) -> list[object]:
        """Of all work that runs."""
        return [joined.subject for joined in self._joined.values()]

    async def join(
        self, key: Hashable, subject: object, start: Callable[[], Coroutine[Any, Any, R]], of: str = ""
    ) -> R:
        """The result of the work that runs under `key`, which is started if it does not run yet.

        `of`: the id of the pod sandbox or container that it is about. Unavailable when the work was ended
        before it was done, as the daemon stops; Aborted when it was abandoned.
        """
        joined = self._joined.get(key)
        if joined is None:
            joined = self._begin(key, subject, start(), of)
        else:
            self._keeper.joined.add((self._verb,))
        if joined.timer is not None:
            joined.timer.cancel()
            joined.timer = None
        work = joined.work
        try:
            return await work.wait()
        finally:
            if work.callers == 0 and self._linger is not None and not work.task.done():
                loop = asyncio.get_running_loop()
                joined.timer = loop.call_later(self._linger(), self._end, key, joined)

    def is_abandoned(self, key: Hashable) -> bool:
        """Whether work runs under `key` that nobody waits for any more."""
        joined = self._joined.get(key)
        return joined is not None and joined.work.callers == 0

    def end_abandoned(self, key: Hashable) -> None:
        """End the work that runs under `key` if nobody waits for it any more."""
        if self.is_abandoned(key):
            self._end(key, self._joined[key])

    def _begin(
        self, key: Hashable, subject: object, coroutine: Coroutine[Any, Any, R], of: str
    ) -> _Joined[R]:
        name = self._verb if of else f"{self._verb} {key}"
        joined = self._joined[key] = _Joined(self._keeper.begin(name, coroutine, of), subject)
        for end in (joined.work.task, joined.work.given_up):
            # Given up, it is forgotten at once: who comes now must not join work that is about to end.
            end.add_done_callback(lambda _: self._forget(key, joined))
        return joined

    def _end(self, key: Hashable, joined: _Joined[R]) -> None:
        self._forget(key, joined)
        joined.work.task.cancel()

    def _forget(self, key: Hashable, joined: _Joined[R]) -> None:
        if joined.timer is not None:
            joined.timer.cancel()
        if self._joined.get(key) is joined:
            del self._joined[key]
