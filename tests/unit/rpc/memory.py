"""A client in memory: what it sends arrives at once, and it reads when it is told to."""

from __future__ import annotations

import asyncio

from crib.rpc.connection import GrpcConnection
from crib.rpc.server import GrpcServer
from crib.wire.http2 import frames

HIGH_WATER = 64 << 10
"""From which on the server is told to pause, as asyncio does it."""


class Memory(asyncio.Transport):
    """A connection of a client, and the transport of it."""

    def __init__(self, server: GrpcServer) -> None:
        super().__init__()
        self.read = bytearray()
        """What the client has read."""
        self.most = 0
        """Bytes that were unread at most."""
        self.is_closed = False
        self._unread = bytearray()
        self._reads = self._is_lost = self._is_paused = False
        self._connection = GrpcConnection(server)
        self._connection.connection_made(self)

    # what the client does

    def send(self, data: bytes) -> None:
        if not self.is_closed:
            self._connection.data_received(data)

    def greet(self, values: dict[int, int] | None = None) -> None:
        self.send(frames.PREFACE + frames.settings(values or {}))

    def take(self, *, always: bool = False) -> None:
        """Read what is there; `always`: and all that comes from now on."""
        self._reads = always
        while self._unread:
            self.read += self._unread
            self._unread.clear()
            self._resume()
        if self.is_closed:
            self._lose()

    def leave(self) -> None:
        self.abort()

    # what the server does

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closed:
            return
        (self.read if self._reads else self._unread).extend(data)
        self.most = max(self.most, len(self._unread))
        if len(self._unread) > HIGH_WATER and not self._is_paused:
            self._is_paused = True
            self._connection.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._unread)

    def close(self) -> None:
        self.is_closed = True
        if not self._unread:
            self._lose()

    def abort(self) -> None:
        self.is_closed = True
        self._unread.clear()
        self._lose()

    def _resume(self) -> None:
        if self._is_paused and not self.is_closed:
            self._is_paused = False
            self._connection.resume_writing()

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)


def open_calls(server: GrpcServer) -> int:
    """Those that count, on any connection."""
    return server._open
