"""A connection as bytes in and out, with back-pressure both ways. Whoever opened its socket makes it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from crib.tunnel.inbox import Inbox
from crib.wire.spdy.reader import Buffer

READ_AHEAD = 512 << 10
"""Taken from the socket and not received yet; beyond it the socket is not read (the loop takes 256 KiB at
once)."""
UNSENT_BYTES = 256 << 10
"""Buffered for a peer that does not read before its writers wait."""
CLOSED = "the connection is closed"


class Link(asyncio.Protocol):
    """One connection. One task receives; any number may send.

    What came before the connection broke can still be received. asyncio's own StreamReader forgets that, and
    it may be an exit code: a peer that closes while we still send makes the kernel break the connection.
    """

    _transport: asyncio.Transport

    def __init__(self, *, paused: bool = False) -> None:
        """With `paused` nothing is read until the transport is replaced (TLS)."""
        self._inbox = Inbox()
        self._paused = paused
        self._lost = ""
        self._room = asyncio.Event()
        self._room.set()

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(UNSENT_BYTES)
        if self._paused:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._inbox.feed(data)
        if self._inbox.size >= READ_AHEAD:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The peer sends no more; we still may, but not over TLS, where the loop cannot do so."""
        self._inbox.end()
        return self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = str(error) if error else CLOSED
        if error is None:
            self._inbox.end()
        self._inbox.break_off(self._lost)
        self._room.set()

    # what the protocols use

    async def receive(self) -> bytes:
        """Some bytes; empty at the end. ConnectionError when the connection is broken."""
        data = await self._inbox.read(0)  # joined they would be copied once more
        if self._paused and self._inbox.size < READ_AHEAD and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return data

    def push_back(self, data: bytes) -> None:
        """The next `receive` gives these bytes."""
        self._inbox.push_back(data)

    @property
    def is_full(self) -> bool:
        """So much is unsent that a task which does not want to wait should send nothing now."""
        return not self._room.is_set()

    def put(self, data: Sequence[Buffer]) -> None:
        """Send without waiting. ConnectionError when the peer is gone."""
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError(self._lost or CLOSED)
        self._transport.write(data[0] if len(data) == 1 else b"".join(data))

    async def drain(self) -> None:
        """Returns when the peer has room for more. ConnectionError when it is gone."""
        await self._room.wait()
        if self._lost:
            raise ConnectionResetError(self._lost)

    def abort(self) -> None:
        """Close without sending what is unsent. Safe to repeat."""
        self._transport.abort()
