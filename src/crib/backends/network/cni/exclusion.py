"""Work that may run together, and work that must run alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from crib.model.errors import Unavailable

PATIENCE_SECONDS = 2.0
"""For which others wait for work that runs alone; then it is broken off."""


@dataclass(eq=False, slots=True)
class _Turn:
    """A place in the queue."""

    alone: bool
    admitted: asyncio.Future[None]


class Exclusion:
    """ADD and DEL of pods share it, GC has it alone (CNI specification, section 4, "Lifecycle & Ordering").

    First come, first served: a node that starts pods all the time has its garbage collected too, and a pod
    waits for one GC at most. Whoever shares must not ask again before it is done.
    """

    def __init__(self) -> None:
        self._sharing = 0
        self._is_alone = False
        self._bound: asyncio.Timeout | None = None
        """Of the work that runs alone."""
        self._queue: deque[_Turn] = deque()

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Run beside others that share."""
        await self._turn(alone=False)
        try:
            yield
        finally:
            self._leave()

    @contextlib.asynccontextmanager
    async def alone(self, within: float) -> AsyncIterator[None]:
        """Run when nobody else does. Unavailable if that is not `within` seconds, for which others wait.

        Unavailable also if somebody has waited for PATIENCE_SECONDS: what was under way is cancelled.
        """
        try:
            async with asyncio.timeout(within):
                await self._turn(alone=True)
        except TimeoutError:
            raise Unavailable(f"cni plugins have been at work for {within:g} s: try again later") from None
        bound = self._bound = asyncio.timeout(PATIENCE_SECONDS if self._queue else None)
        try:
            async with bound:
                yield
        except TimeoutError:
            if not bound.expired():
                raise
            raise Unavailable(
                f"broken off, as pods have waited for it for {PATIENCE_SECONDS:g} s: try again later"
            ) from None
        finally:
            self._bound = None
            self._leave()

    async def _turn(self, *, alone: bool) -> None:
        turn = _Turn(alone, asyncio.get_running_loop().create_future())
        self._queue.append(turn)
        self._admit()
        if not turn.admitted.done() and self._bound is not None and self._bound.when() is None:
            self._bound.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECONDS)
        try:
            await turn.admitted
        except asyncio.CancelledError:
            if turn.admitted.cancelled():
                self._admit()
            else:  # its turn came at the same moment
                self._leave()
            raise

    def _admit(self) -> None:
        while self._queue and not self._is_alone:
            turn = self._queue[0]
            given_up = turn.admitted.cancelled()
            if turn.alone and self._sharing and not given_up:
                return
            self._queue.popleft()
            if given_up:
                continue
            if turn.alone:
                self._is_alone = True
            else:
                self._sharing += 1
            turn.admitted.set_result(None)

    def _leave(self) -> None:
        """Of whoever is in: one that is alone, or one of those that share."""
        if self._is_alone:
            self._is_alone = False
        else:
            self._sharing -= 1
        self._admit()
