"""How much is held of what one client sent and nobody has read yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

UNREAD_BYTES = 1 << 20
"""Of one connection, then it is not read: most peers know no windows, so nothing else holds them up."""
LOOK_SECONDS = 5.0
"""How often it is then looked whether the client is still there."""
STUCK_SECONDS = 300.0
"""For which a stream that nobody reads may hold up the others: its reader may just wait for a lock."""


class Room:
    """Counts bytes that were taken in and not given out yet."""

    def __init__(self, has_left: Callable[[], bool], stuck: Callable[[], None] | None = None) -> None:
        """`has_left`: whether the client has closed the connection. `stuck` is called when no more can be
        held, and nothing was given out for STUCK_SECONDS.
        """
        self._has_left = has_left
        self._stuck = stuck
        self._looks = 0
        self._unread = 0
        self._is_free = asyncio.Event()
        self._is_free.set()

    def take(self, count: int) -> None:
        """So many bytes came."""
        self._unread += count
        if self._unread >= UNREAD_BYTES:
            self._is_free.clear()

    def give(self, count: int) -> None:
        """So many were read, or dropped."""
        self._unread -= count
        self._looks = 0
        if self._unread < UNREAD_BYTES:
            self._is_free.set()

    async def wait(self) -> None:
        """Returns when more may be held. ConnectionError when the client has gone meanwhile."""
        while not self._is_free.is_set():
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._is_free.wait()
            except TimeoutError:
                if self._has_left():
                    raise ConnectionResetError("the client has gone") from None
                self._looks += 1
                if self._stuck is not None and self._looks * LOOK_SECONDS >= STUCK_SECONDS:
                    self._stuck()
