"""What came on one stream and is not taken yet, at either end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Self

from crib.ttrpc.errors import TtrpcError
from crib.ttrpc.reading import Reading

MESSAGE_BYTES = 1 << 10
"""Of each message on top of its own bytes, so that empty ones are bounded too."""


class Incoming:
    """Messages in order, then the end: a plain one, or an error."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._error: TtrpcError | None = None
        self._news = asyncio.Event()

    def put(self, message: bytes) -> None:
        """One has come."""
        if not self._ended:
            self._messages.append(message)
            self._reading.came(len(message) + MESSAGE_BYTES)
            self._news.set()

    def end(self, error: TtrpcError | None = None) -> None:
        """No more come. The first end counts."""
        if not self._ended:
            self._ended, self._error = True, error
            self._news.set()

    async def take(self) -> bytes | None:
        """The next message; None after the last one."""
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._reading.taken(len(message) + MESSAGE_BYTES)
        return message

    def drop(self) -> None:
        """Nobody takes the rest."""
        self._ended = True
        while self._messages:
            self._reading.taken(len(self._messages.popleft()) + MESSAGE_BYTES)


class Messages(ABC):
    """Those that come on one stream, for whoever is at this end."""

    @abstractmethod
    async def receive(self) -> bytes | None:
        """The next message; None after the last one."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if (message := await self.receive()) is None:
            raise StopAsyncIteration
        return message
