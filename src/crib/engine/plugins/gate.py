"""Keeps apart what a plugin learns when it joins, and what it is told from then on.

A verb is inside the gate while it asks or tells plugins and changes the row in question. Whoever is alone
behind the gate sees each change together with what plugins were told of it, or neither.

    making   passes that make a pod or container. They wait from the moment somebody wants to be alone. Such a
             pass takes the longest, and comes before the verb holds a lock that others want.
    telling  all others. They wait only while somebody is alone: they hold locks, and a pass of the first kind
             may be waiting for one of these.

So whoever is alone waits for nobody, and every other wait is bounded by how long one may be alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crib.model.errors import Unavailable
from crib.tasks.keeper import at_stage

EMPTY_LIMIT = 10.0
"""Seconds that who wants to be alone waits for passes under way; nothing new is made meanwhile."""
PASS_LIMIT = 330.0
"""Seconds that a pass waits: somewhat more than the longest time for which settings let one be alone."""


class Gate:
    """One for the node. Passes cost next to nothing while nobody is alone, or wants to be."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_wanted = False
        self._is_closed = False
        self._waiting: list[asyncio.Future[None]] = []
        self._emptied: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody is alone, or wants to be."""
        return self._is_wanted

    def making(self) -> Pass:
        """A pass, not yet begun, of what makes a pod or container."""
        return Pass(self, makes=True)

    def telling(self) -> Pass:
        """A pass, not yet begun, of anything else that plugins are asked or told about."""
        return Pass(self, makes=False)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Until it ends no pass begins. Unavailable when passes under way take too long to end."""
        async with self._turn:
            self._is_wanted = True
            try:
                await self._empty()
                self._is_closed = True
                yield
            finally:
                self._is_wanted = self._is_closed = False
                self._let_in()

    async def _empty(self) -> None:
        try:
            async with asyncio.timeout(EMPTY_LIMIT):
                while self._inside:
                    self._emptied = asyncio.get_running_loop().create_future()
                    with at_stage("waiting for what is being made"):
                        await self._emptied
        except TimeoutError as error:
            text = f"{self._inside} verbs that make or change something did not end in {EMPTY_LIMIT:.0f} s"
            raise Unavailable(text) from error
        finally:
            self._emptied = None

    def _let_in(self) -> None:
        """Who has waited comes before the next who wants to be alone."""
        for waiter in self._waiting:
            if not waiter.done():
                self._inside += 1
                waiter.set_result(None)
        self._waiting.clear()

    async def enter(self, *, makes: bool) -> None:
        if not (self._is_closed or (makes and self._is_wanted)):
            self._inside += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            with at_stage("waiting until a plugin knows what there is"):
                async with asyncio.timeout(PASS_LIMIT):
                    await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self.leave()  # it was let in, and its caller does not know
            if isinstance(error, TimeoutError):
                text = f"a node plugin that has come is not done after {PASS_LIMIT:.0f} s"
                raise Unavailable(text) from error
            raise

    def leave(self) -> None:
        self._inside -= 1
        if not self._inside and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)


class Pass:
    """To be entered; it may be entered again afterwards."""

    __slots__ = ("_gate", "_makes")

    def __init__(self, gate: Gate, *, makes: bool) -> None:
        self._gate, self._makes = gate, makes

    async def __aenter__(self) -> None:
        await self._gate.enter(makes=self._makes)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._gate.leave()
