"""What could not be taken away is tried again by itself, ever more seldom, until nothing of it is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from crib.engine.keeper import TaskKeeper, at_stage
from crib.model.errors import CribError

log = logging.getLogger(__name__)

FIRST_PAUSE = 10.0
"""Seconds before the first try. The next pauses are twice as long each."""
LONGEST_PAUSE = 300.0
"""Seconds."""
MAX_LEFT = 4
"""Objects of one pod that cannot be taken away: no more are made for it then, however often that is asked."""
CLEAN_UP = "clean-up"
"""Name of the retries that end with nothing left of the object."""


class Retries:
    """At most one for each object, whoever asks for it how often."""

    def __init__(self, keeper: TaskKeeper) -> None:
        self._keeper = keeper
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def objects(self) -> set[str]:
        """The ids of those that something is left of."""
        return {of for of, _ in self._tasks}

    def later(
        self, of: str, name: str, attempt: Callable[[], Awaitable[object]], pause: float = FIRST_PAUSE
    ) -> None:
        """Have `attempt` made until it raises nothing, unless one of that name goes on already."""
        if (of, name) not in self._tasks:
            self._tasks[of, name] = self._keeper.serve(name, self._go_on((of, name), attempt, pause), of)

    async def _go_on(
        self, key: tuple[str, str], attempt: Callable[[], Awaitable[object]], pause: float
    ) -> None:
        try:
            while True:
                with at_stage(f"next try within {pause:.0f} s"):
                    await asyncio.sleep(pause)
                try:
                    await attempt()
                except Exception as error:  # a bug too: nobody else would try again
                    is_bug = not isinstance(error, CribError)
                    log.warning("%s of %s goes on: %s", key[1], key[0], error, exc_info=is_bug)
                else:
                    return
                pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
        finally:
            del self._tasks[key]
