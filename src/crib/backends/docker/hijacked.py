"""A connection that a call of the Engine has turned into the streams of a process.

aiohttp leaves such a connection to a parser of its caller, as it does for WebSockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

from crib.wire.docker_streams import Frames

HIGH_WATER = 1 << 20
"""Bytes that nobody has read yet, from which on no more is taken from the Engine."""


class Hijacked:
    """Both ways. Who reads gets pieces by `begin`, and says by `give` when they are read."""

    def __init__(self, response: aiohttp.ClientResponse, *, terminal: bool) -> None:
        connection = response.connection
        if connection is None or connection.protocol is None:
            raise ConnectionResetError("the Engine has closed the connection")
        self.ended = asyncio.Event()
        """Nothing more comes."""
        self._response = response
        self._protocol: Any = connection.protocol
        self._transport: asyncio.Transport | None = connection.transport
        """None where all has come, and the end, before anybody looked."""
        self._frames = Frames(terminal=terminal)
        self._take: Callable[[str, bytes], None] = lambda _stream, _data: None
        self._unread = 0
        self._is_paused = False
        self._has_ended_input = False

    def begin(self, take: Callable[[str, bytes], None]) -> None:
        """From now on `take` gets what comes, with the name of its stream."""
        self._take = take
        self._protocol.set_parser(self, None)
        if not self._protocol.is_connected():  # it came and ended before anybody looked
            self.feed_eof()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """aiohttp's: bytes have come. True ends it."""
        try:
            for stream, piece in self._frames.receive(data):
                self._unread += len(piece)
                self._take(stream, piece)
        except ValueError:
            self.feed_eof()
            return True, b""
        if self._unread >= HIGH_WATER and not self._is_paused and not self.ended.is_set():
            self._is_paused = True
            self._protocol.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        """aiohttp's: the Engine has closed it."""
        self.ended.set()

    def give(self, count: int) -> None:
        """So many bytes were read, or are not wanted."""
        self._unread -= count
        if self._is_paused and self._unread < HIGH_WATER and not self.ended.is_set():
            self._is_paused = False
            self._protocol.resume_reading()

    async def write(self, data: bytes) -> None:
        """To the input; returns when more may be written. ConnectionError when nobody reads any more."""
        transport = self._transport
        if self._has_ended_input or self.ended.is_set() or transport is None or transport.is_closing():
            raise BrokenPipeError("it is closed")
        transport.write(data)
        await self._protocol._drain_helper()  # as aiohttp's own writers wait

    def end_input(self) -> None:
        """The process reads an end. Safe to repeat."""
        if not self._has_ended_input:
            self._has_ended_input = True
            transport = self._transport
            if transport is not None and not transport.is_closing() and transport.can_write_eof():
                transport.write_eof()

    def close(self) -> None:
        """Let go of both ways. Safe to repeat."""
        self._has_ended_input = True
        self._response.close()
        self.ended.set()
