"""Bytes that came on the streams of one connection and were not read yet, within bounds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from crib.client.errors import Unavailable

UNREAD_BYTES = 4 << 20
"""Held of all streams of a connection together for readers that are late; then its socket is not read. Most
runtimes know no windows, so that is the only way to hold them up."""


class Room:
    """What is held of a connection's streams."""

    def __init__(self) -> None:
        self._unread = 0
        self._is_free = asyncio.Event()
        self._is_free.set()

    def take(self, count: int) -> None:
        """So many bytes came."""
        self._unread += count
        if self._unread >= UNREAD_BYTES:
            self._is_free.clear()

    def give(self, count: int) -> None:
        """So many were read."""
        self._unread -= count
        if self._unread < UNREAD_BYTES:
            self._is_free.set()

    async def wait(self) -> None:
        """Returns when more may be held."""
        await self._is_free.wait()


class Incoming:
    """The reading half of a stream."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._chunks: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self.has_begun = False
        """Some bytes came."""
        self.has_ended = False
        """No more comes; what came can still be read."""
        self.broken = ""
        """Why nothing comes or goes any more; empty while it does."""
        self.outcome: Incoming | None = None
        """The stream that tells how all ended, if there is one. Runtimes reset streams when that is told."""

    async def read(self) -> bytes:
        """All bytes that there are, at least one; empty at the end, for good. Unavailable when broken."""
        while not self._chunks:
            if self.has_ended:
                return b""
            if self.broken:
                raise Unavailable(self.broken)
            self._wake.clear()
            await self._wake.wait()
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._room.give(len(data))
        self._taken(len(data))
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    def feed(self, data: bytes) -> None:
        """Bytes that came."""
        if data:
            self.has_begun = True
            self._room.take(len(data))
            self._chunks.append(data)
            self._wake.set()

    def end(self) -> None:
        """Nothing more comes."""
        self.has_ended = True
        self._wake.set()

    def break_off(self, why: str) -> None:
        """Nothing more comes or goes; what came before can still be read."""
        self.broken = self.broken or why
        if self.outcome is not None and self.outcome.has_begun:
            self.has_ended = True
        self._wake.set()

    def _taken(self, count: int) -> None:
        """For protocols that tell the other side."""
