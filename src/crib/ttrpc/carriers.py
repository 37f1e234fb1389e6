"""What carries ttrpc: a connection that hands over its bytes as they come, and that its owner has opened."""

from __future__ import annotations

import asyncio
from typing import Protocol

from crib.ttrpc.errors import PeerLost

UNSENT_BYTES = 256 << 10
"""Buffered for a peer that does not read before whoever sends waits."""
PEER_CLOSED = "the peer closed the connection"


class Receiver(Protocol):
    """Who is at this end of a carrier. Its methods are called on the loop, and never at the same time."""

    def received(self, data: bytes) -> None:
        """Some bytes have come."""

    def lost(self, reason: str) -> None:
        """Nothing comes or goes any more; called once."""


class FrameCarrier(Protocol):
    """A connection."""

    def attach(self, receiver: Receiver) -> None:
        """From now on what comes goes to `receiver`; until now it was held, within bounds."""

    @property
    def is_full(self) -> bool:
        """So much is unsent that a sender should wait."""

    def put(self, message: bytes) -> None:
        """Send one whole frame of ttrpc, without waiting. PeerLost when the connection is gone."""

    async def drain(self) -> None:
        """Returns when there is room for more. PeerLost when the connection is gone."""

    def pause(self) -> None:
        """Read no further. What was read already may still come. Safe to repeat."""

    def resume(self) -> None:
        """Read on. Safe to repeat."""

    def close(self) -> None:
        """End the connection, once what is unsent has gone or the peer has. Safe to repeat."""

    def abort(self, reason: str) -> None:
        """End the connection at once. Safe to repeat."""


class SocketCarrier(asyncio.Protocol):
    """A socket, as the loop's `create_unix_connection` and the like make it with this class."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._receiver: Receiver | None = None
        self._lost = ""
        self._is_over = False
        self._room = asyncio.Event()
        self._room.set()

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(UNSENT_BYTES)
        if self._receiver is None:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        assert self._receiver is not None
        self._receiver.received(data)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = self._lost or (str(error) if error else PEER_CLOSED)
        self._is_over = True
        self._room.set()
        if self._receiver is not None:
            self._receiver.lost(self._lost)

    # what its owner and its receiver use

    def attach(self, receiver: Receiver) -> None:
        assert self._receiver is None, "a carrier has one receiver"
        self._receiver = receiver
        if self._is_over:
            receiver.lost(self._lost)
        else:
            self._transport.resume_reading()

    @property
    def is_full(self) -> bool:
        return not self._room.is_set()

    def put(self, message: bytes) -> None:
        if self._transport.is_closing():
            raise PeerLost(self._lost or PEER_CLOSED)
        self._transport.write(message)

    async def drain(self) -> None:
        await self._room.wait()
        if self._transport.is_closing():
            raise PeerLost(self._lost or PEER_CLOSED)

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def close(self) -> None:
        self._lost = self._lost or "the connection was closed at this end"
        self._transport.close()

    def abort(self, reason: str) -> None:
        self._lost = self._lost or reason
        self._transport.abort()
