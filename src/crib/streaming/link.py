"""A client's connection: bytes in and out with back-pressure both ways, TLS, and a limit on silence."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

_log = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview

READ_AHEAD = 512 << 10
"""Taken from the socket and not received yet; beyond it the socket is not read (the loop takes 256 KiB at
once)."""
UNSENT_BYTES = 256 << 10
"""Buffered for a client that does not read before its writers wait."""
KEEPALIVE = (15, 15, 4)
"""Seconds until the first probe of a silent connection and between two, and how many go unanswered: so one
whose client's host has gone ends, which sends nothing otherwise (tcp(7))."""
_CLOSED_BY_CLIENT = frozenset((7, 8, 9))
"""TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LAST_ACK (linux/tcp_states.h)."""


class Link(asyncio.Protocol):
    """One connection. One task receives; any number may send."""

    def __init__(self, opened: Callable[[Link], None], *, paused: bool = False) -> None:
        """`opened` is told when the client is there; with `paused` nothing is read before `secure`."""
        self._opened = opened
        self._paused = paused
        self._transport: asyncio.Transport
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._lost = ""
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._active = time.monotonic()
        self._silence: asyncio.TimerHandle | None = None
        self.peer = ""
        """The client's address, for logs."""

    # what the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connected = transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in zip(
            (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), KEEPALIVE, strict=True
        ):
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
        transport.set_write_buffer_limits(UNSENT_BYTES)
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        if self._paused:
            transport.pause_reading()
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        self._active = time.monotonic()
        self._chunks.append(data)
        self._size += len(data)
        if self._size >= READ_AHEAD:
            self._paused = True
            self._transport.pause_reading()
        self._news.set()

    def eof_received(self) -> bool:
        """The client sends no more; we still may, but not over TLS, where the loop cannot do so."""
        self._ended = True
        self._news.set()
        return self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._active = time.monotonic()
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = str(error) if error else "it is closed"
        self._ended = self._ended or error is None
        self._news.set()
        self._room.set()
        if self._silence is not None:
            self._silence.cancel()

    # what the protocols use

    async def secure(self, context: ssl.SSLContext) -> None:
        """Become a TLS connection. OSError when the client cannot or does not."""
        loop = asyncio.get_running_loop()
        made = await loop.start_tls(self._transport, self, context, server_side=True)
        if made is None:
            raise ConnectionResetError("the connection was lost within its handshake")
        self._transport = made
        self._paused = False
        made.set_write_buffer_limits(UNSENT_BYTES)

    async def receive(self) -> bytes:
        """Some bytes; empty at the end. ConnectionError when the connection is broken."""
        while not self._chunks:
            if self._ended:
                return b""
            if self._lost:
                raise ConnectionResetError(self._lost)
            self._news.clear()
            await self._news.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size < READ_AHEAD and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return data

    def push_back(self, data: bytes) -> None:
        """The next `receive` gives these bytes."""
        if data:
            self._chunks.appendleft(data)
            self._size += len(data)

    @property
    def is_full(self) -> bool:
        """So much is unsent that a task which does not want to wait should send nothing now."""
        return not self._room.is_set()

    def put(self, data: Sequence[Buffer]) -> None:
        """Send without waiting. ConnectionError when the client is gone."""
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError(self._lost or "it is closed")
        self._active = time.monotonic()
        self._transport.write(data[0] if len(data) == 1 else b"".join(data))

    async def drain(self) -> None:
        """Returns when the client has room for more. ConnectionError when it is gone."""
        await self._room.wait()
        if self._lost:
            raise ConnectionResetError(self._lost)

    async def drain_all(self) -> None:
        """Returns when the kernel has all that was sent. ConnectionError when the client is gone."""
        # Not 0: that pauses writing over TLS also when nothing is unsent, and nothing resumes it.
        self._transport.set_write_buffer_limits(1, 0)
        await self.drain()

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

    def abort(self) -> None:
        """Close without sending what is unsent. Safe to repeat."""
        self._transport.abort()

    def _watch(self, limit: float) -> None:
        left = self._active + limit - time.monotonic()
        if left > 0:
            self._silence = asyncio.get_running_loop().call_later(left, self._watch, limit)
        else:
            _log.info("a stream of %s without a byte for %g s is closed", self.peer, limit)
            self.abort()
