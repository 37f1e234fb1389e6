"""Work that may run together, and work that must run alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from crib.model.errors import Unavailable


class Exclusion:
    """ADD and DEL of pods share it, GC has it alone (CNI specification, section 4, "Lifecycle & Ordering").

    Who waits to be alone comes before those that begin to share: a node that starts pods all the time has its
    garbage collected too. Whoever shares must not ask again before it is done.
    """

    def __init__(self) -> None:
        self._sharing = 0
        self._waiting_alone = 0
        self._alone = False
        self._waiters: list[asyncio.Future[None]] = []

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Run beside others that share."""
        await self._until(lambda: not self._alone and not self._waiting_alone)
        self._sharing += 1
        try:
            yield
        finally:
            self._sharing -= 1
            self._wake()

    @contextlib.asynccontextmanager
    async def alone(self, within: float) -> AsyncIterator[None]:
        """Run when nobody else does. Unavailable if that is not `within` seconds, for which others wait."""
        self._waiting_alone += 1
        try:
            async with asyncio.timeout(within):
                await self._until(lambda: not self._alone and not self._sharing)
            self._alone = True
        except TimeoutError:
            raise Unavailable(f"cni plugins have been at work for {within:g} s: try again later") from None
        finally:
            self._waiting_alone -= 1
            self._wake()
        try:
            yield
        finally:
            self._alone = False
            self._wake()

    async def _until(self, free: Callable[[], bool]) -> None:
        while not free():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
