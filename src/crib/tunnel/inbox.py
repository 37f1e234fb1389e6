"""Bytes that came and were not read yet: one stream's, and the bound on those of a whole connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

READ_BYTES = 256 << 10
"""Of one read, unless a single piece is larger."""
SMALL_PIECE = 1 << 10
"""Pieces below it are joined: a flood of tiny ones would cost 30 times what it brings."""
LOOK_SECONDS = 5.0
"""How often a full room looks whether the peer is still there."""
STUCK_SECONDS = 300.0
"""For which a stream that nobody reads may hold up the others: its reader may just wait for a lock."""


class Room:
    """Counts bytes of one connection that were taken in and not given out yet.

    Most peers know no windows, so only a connection that is not read holds them up.
    """

    def __init__(self, limit: int, has_left: Callable[[], bool] | None = None) -> None:
        """From `limit` bytes on, `wait` waits. `has_left`: whether the peer has closed the connection, if it
        matters before the next read of it.
        """
        self._limit = limit
        self._has_left = has_left
        self._stuck: Callable[[], None] | None = None
        self._looks = 0
        self._unread = 0
        self._is_free = asyncio.Event()
        self._is_free.set()

    def when_stuck(self, act: Callable[[], None]) -> None:
        """Call this when no more can be held, and nothing was given out for STUCK_SECONDS."""
        self._stuck = act

    def take(self, count: int) -> None:
        """So many bytes came."""
        self._unread += count
        if self._unread >= self._limit:
            self._is_free.clear()

    def give(self, count: int) -> None:
        """So many were read, or dropped."""
        self._unread -= count
        self._looks = 0
        if self._unread < self._limit:
            self._is_free.set()

    async def wait(self) -> None:
        """Returns when more may be held. ConnectionError when the peer has gone meanwhile."""
        while not self._is_free.is_set():
            try:
                async with asyncio.timeout(LOOK_SECONDS if self._has_left else None):
                    await self._is_free.wait()
            except TimeoutError:
                if self._has_left is not None and self._has_left():
                    raise ConnectionResetError("the peer has gone") from None
                self._looks += 1
                if self._stuck is not None and self._looks * LOOK_SECONDS >= STUCK_SECONDS:
                    self._stuck()


class Inbox:
    """What came of one stream, for one reader. See ends.ByteSource."""

    def __init__(self, room: Room | None = None) -> None:
        """`room` bounds it together with other streams; without one the feeder looks at `size`."""
        self.size = 0
        """Bytes that nobody has read yet."""
        self.has_begun = False
        """Some bytes came."""
        self.has_ended = False
        """Nothing more arrives; what has arrived can still be read."""
        self.broken = ""
        """Why nothing comes or goes any more; empty while it does."""
        self._room = room
        self._pieces: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._tell: Callable[[], None] | None = None

    async def read(self, most: int = READ_BYTES) -> bytes:
        """Bytes that there are: the oldest piece, and with it those after it, up to `most` bytes together.

        Waits for some; empty at the end, for good. ConnectionError when it broke before its end.
        """
        pieces = self._pieces
        while not pieces:
            if self.has_ended:
                return b""
            if self.broken:
                raise ConnectionResetError(self.broken)
            self._news.clear()
            await self._news.wait()
        data = pieces.popleft()
        if pieces and len(data) + len(pieces[0]) <= most:
            data = self._join(data, most)
        self.size -= len(data)
        self._given(len(data))
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    def feed(self, data: bytes) -> None:
        """Bytes that came; those behind the end are dropped."""
        if not data or self.has_ended:
            return
        self.has_begun = True
        self.size += len(data)
        if self._room is not None:
            self._room.take(len(data))
        if len(data) < SMALL_PIECE and self._pieces and len(self._pieces[-1]) < SMALL_PIECE:
            self._pieces[-1] += data
        else:
            self._pieces.append(data)
        self._news.set()

    def push_back(self, data: bytes) -> None:
        """The next `read` begins with these bytes."""
        if data:
            self.size += len(data)
            if self._room is not None:
                self._room.take(len(data))
            self._pieces.appendleft(data)
            self._news.set()

    def end(self) -> None:
        """Nothing more comes."""
        self.has_ended = True
        self._news.set()

    def break_off(self, why: str) -> None:
        """Nothing more arrives or leaves; what has arrived can still be read. The first reason counts."""
        self.broken = self.broken or why
        self._news.set()
        if self._tell is not None:
            self._tell()

    def cut_off(self, why: str) -> None:
        """Nothing more comes or goes, and what nobody has read is dropped.

        An end that has arrived no longer counts: no reader must mistake a part for the whole.
        """
        self.has_ended = False
        self.drop()
        self.break_off(why)

    def when_broken(self, tell: Callable[[], None]) -> None:
        """Call this as soon as nothing comes or goes any more: who waits for something else hears of it."""
        self._tell = tell
        if self.broken:
            tell()

    def drop(self) -> None:
        """Forget what nobody has read."""
        size, self.size = self.size, 0
        self._pieces.clear()
        if size:
            self._given(size)

    def discard(self) -> None:
        """Nobody reads any more: what there is and what still comes is dropped."""
        self.end()
        self.drop()

    def _given(self, count: int) -> None:
        """So many bytes are held no more."""
        if self._room is not None:
            self._room.give(count)

    def _join(self, first: bytes, most: int) -> bytes:
        taken, size = [first], len(first)
        while self._pieces and size + len(self._pieces[0]) <= most:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        return b"".join(taken)
