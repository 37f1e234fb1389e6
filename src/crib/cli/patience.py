"""What a command waits for, told to the person who waits: after a second, and while it lasts.

On a terminal that is one line, written again each second and gone at the end; elsewhere a line every ten
seconds. Both go to standard error. `session.say` and `output.tell` take the line away before they write.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.cli import colours, tables
from crib.cli.output import clean
from crib.cli.status_line import STATUS_LINE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TICK = 1.0
"""Seconds: how long nothing is said, and between two lines on a terminal."""
QUIET = 10.0
"""Seconds between two lines where they stay."""


@dataclass(eq=False, slots=True)
class Wait:
    """One thing that is waited for. `limit` is in seconds, where it is known how long it may last."""

    what: str
    began: float
    limit: float | None = None

    def text(self, now: float) -> str:
        lasted = f"{now - self.began:.0f}"
        return f"{self.what}, {lasted} of {self.limit:g} s" if self.limit else f"{self.what}, {lasted} s"


class Board:
    """All that is waited for at the moment."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waits: list[Wait] = []
        self._said = 0.0
        """When the last line that stays was written."""

    def add(self, what: str, limit: float | None) -> Wait:
        wait = Wait(clean(what), self._clock(), limit)
        if not self._waits:
            self._said = wait.began
        self._waits.append(wait)
        return wait

    def remove(self, wait: Wait) -> None:
        self._waits.remove(wait)
        STATUS_LINE.clear()

    def draw(self) -> None:
        """Tell of the wait that has lasted longest, and how many others there are."""
        now = self._clock()
        if not self._waits or now - self._waits[0].began < TICK:
            return
        more = f" (and {len(self._waits) - 1} more)" if len(self._waits) > 1 else ""
        text = f"{self._waits[0].text(now)}{more}"
        if colours.can_move(sys.stderr):
            columns = shutil.get_terminal_size((80, 24)).columns - 1
            STATUS_LINE.show(tables.fitted(text, columns, tables.Shortening.END))
        elif now - self._said >= QUIET:
            self._said = now
            print(text, file=sys.stderr, flush=True)


_BOARD = Board()


@contextlib.asynccontextmanager
async def told(what: str, limit: float | None = None) -> AsyncIterator[None]:
    """Tell what is waited for while the block lasts: `stopping default/web, 12 of 30 s`."""
    wait = _BOARD.add(what, limit)
    ticking = asyncio.ensure_future(_tick())
    try:
        yield
    finally:
        ticking.cancel()
        _BOARD.remove(wait)


async def _tick() -> None:
    while True:
        await asyncio.sleep(TICK)
        _BOARD.draw()


class WaitTeller:
    """For those who say what they wait for, and then that they do no more (`workloads.start.Listener`)."""

    def __init__(self) -> None:
        self._wait: Wait | None = None
        self._ticking: asyncio.Future[None] | None = None

    def now_for(self, what: str) -> None:
        """Something else; empty: nothing."""
        if self._wait is not None and self._ticking is not None:
            self._ticking.cancel()
            _BOARD.remove(self._wait)
            self._wait = None
        if what:
            self._wait = _BOARD.add(what, None)
            self._ticking = asyncio.ensure_future(_tick())
