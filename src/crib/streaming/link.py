"""A client's connection: TLS, a limit on silence, and an end that the client gets to read."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence

from crib.tunnel.inbox import Room
from crib.tunnel.link import UNSENT_BYTES, Link
from crib.wire.spdy.reader import Buffer

_log = logging.getLogger(__name__)

UNREAD_BYTES = 1 << 20
"""Held of one connection for readers that are late; then it is not read."""
KEEPALIVE = (15, 15, 4)
"""Seconds until the first probe of a silent connection and between two, and how many go unanswered: so one
whose client's host has gone ends, which sends nothing otherwise (tcp(7))."""
_CLOSED_BY_CLIENT = frozenset((7, 8, 9))
"""TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LAST_ACK (linux/tcp_states.h)."""


class ClientLink(Link):
    """One connection of a client."""

    def __init__(self, opened: Callable[[ClientLink], None], *, paused: bool = False) -> None:
        """`opened` is called when the client is there; with `paused` nothing is read before `secure`."""
        super().__init__(paused=paused)
        self._opened = opened
        self._active = time.monotonic()
        self._silence: asyncio.TimerHandle | None = None
        self.peer = ""
        """The client's address, for logs."""

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connected = transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in zip(
            (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), KEEPALIVE, strict=True
        ):
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        self._active = time.monotonic()
        super().data_received(data)

    def resume_writing(self) -> None:
        self._active = time.monotonic()
        super().resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._silence is not None:
            self._silence.cancel()

    # what the server uses

    async def secure(self, context: ssl.SSLContext) -> None:
        """Become a TLS connection. OSError when the client cannot or does not."""
        loop = asyncio.get_running_loop()
        made = await loop.start_tls(self._transport, self, context, server_side=True)
        if made is None:
            raise ConnectionResetError("the connection was lost during its handshake")
        self._transport = made
        self._paused = False
        made.set_write_buffer_limits(UNSENT_BYTES)

    def put(self, data: Sequence[Buffer]) -> None:
        super().put(data)
        self._active = time.monotonic()

    async def drain_all(self) -> None:
        """Returns when the kernel has all that was sent. ConnectionError when the client is gone."""
        # Not 0: that pauses writing over TLS also when nothing is unsent, and nothing resumes it.
        self._transport.set_write_buffer_limits(1, 0)
        await self.drain()

    def room(self) -> Room:
        """For what comes of this client and nobody has read yet."""
        return Room(UNREAD_BYTES, self.has_left)

    def has_left(self) -> bool:
        """Whether the client has closed the connection, also while nothing is read from it."""
        if self._lost:
            return True
        connected = self._transport.get_extra_info("socket")
        try:
            (state,) = struct.unpack("B", connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1))
        except OSError:
            return True
        return state in _CLOSED_BY_CLIENT

    def end_after_silence(self, limit: float) -> None:
        """From now on, end the connection when nothing has come or gone for `limit` seconds; never for 0."""
        if limit and not self._lost:
            self._watch(limit)

    async def close(self) -> None:
        """Send what is unsent and say the end; returns when the client has closed too. ConnectionError."""
        await self.drain_all()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
        # Closing with unread input would make the kernel send a reset, and the client lose the end.
        while await self.receive():
            pass

    def _watch(self, limit: float) -> None:
        left = self._active + limit - time.monotonic()
        if left > 0:
            self._silence = asyncio.get_running_loop().call_later(left, self._watch, limit)
        else:
            _log.info("a stream of %s without a byte for %g s is closed", self.peer, limit)
            self.abort()
