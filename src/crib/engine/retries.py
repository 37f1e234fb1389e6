"""What could not be taken away is tried again by itself, ever more seldom, until nothing of it is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from crib.model.errors import CribError
from crib.tasks.keeper import TaskKeeper, at_stage

_log = logging.getLogger(__name__)

FIRST_PAUSE = 10.0
"""Seconds before the first try. The next pauses are twice as long each."""
LONGEST_PAUSE = 300.0
"""Seconds."""
MAX_LEFT = 4
"""Objects of one pod that cannot be taken away: no more are made for it then, however often that is asked."""
CLEAN_UP = "clean-up"
"""Name of the retries that end with nothing left of the object."""


class Retries:
    """At most one for each object, however often it is asked for."""

    def __init__(self, keeper: TaskKeeper) -> None:
        self._keeper = keeper
        self._due: dict[tuple[str, str], asyncio.Event] = {}
        """For each that goes on: set when its next try is not to wait any longer."""

    def objects(self) -> set[str]:
        """The ids of those that something is left of."""
        return {of for of, _ in self._due}

    def later(
        self, of: str, name: str, attempt: Callable[[], Awaitable[object]], pause: float = FIRST_PAUSE
    ) -> None:
        """Have `attempt` made until it raises nothing.

        If one of that name goes on already, that one is kept. With a `pause` of 0 its next try begins at
        once, or as soon as the one under way has failed.
        """
        due = self._due.get((of, name))
        if due is None:
            self._due[of, name] = asyncio.Event()
            self._keeper.serve(name, self._go_on((of, name), attempt, pause), of)
        elif not pause:
            due.set()

    async def _go_on(
        self, key: tuple[str, str], attempt: Callable[[], Awaitable[object]], pause: float
    ) -> None:
        due = self._due[key]
        try:
            while True:
                with at_stage(f"next try within {pause:.0f} s"), suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await due.wait()
                due.clear()
                try:
                    await attempt()
                except Exception as error:  # a bug too: nobody else would try again
                    is_bug = not isinstance(error, CribError)
                    _log.warning("%s of %s is tried again: %s", key[1], key[0], error, exc_info=is_bug)
                else:
                    return
                pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
        finally:
            del self._due[key]
