"""Where the metrics are read: a small HTTP server on a unix socket, or on TCP.

A client gets one answer within SECONDS, and no more than CLIENTS are served at once. The loop takes the
request's bytes, reads the figures, and hands both to a thread, which makes the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from crib.observe.reading import Taken
from crib.tasks.keeper import TaskKeeper

_log = logging.getLogger(__name__)

SECONDS = 10.0
"""For one client, from its connection to the last byte that it takes; Prometheus waits as long."""
CLIENTS = 8
"""At once; who comes beyond is sent away."""
HEAD_BYTES = 8 << 10
"""Of a request; more is none of ours."""

InThread = Callable[[str, Callable[[], bytes]], Awaitable[bytes]]
"""Runs what blocks, under a name for people; TimeoutError when it takes too long."""


class MetricsServer:
    """Serves what `read` gives, until it is closed."""

    def __init__(self, read: Callable[[], Taken], in_thread: InThread) -> None:
        self._read = read
        self._in_thread = in_thread
        self._keeper = TaskKeeper()
        self._server: asyncio.Server | None = None
        self.clients: set[_Client] = set()

    async def listen(self, place: str) -> int:
        """On `unix:PATH` or ADDRESS:PORT; the port, 0 for a socket. OSError when that cannot be had."""
        loop = asyncio.get_running_loop()
        if place.startswith("unix:"):
            self._server = await loop.create_unix_server(self._client, place.removeprefix("unix:"))
            return 0
        address, _, port = place.rpartition(":")
        self._server = await loop.create_server(self._client, address.strip("[]"), int(port))
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Take nobody any more, and send away who is there."""
        if self._server is not None:
            self._server.close()
        for client in tuple(self.clients):
            client.abort()
        await self._keeper.close(0)

    def _client(self) -> _Client:
        return _Client(self)

    def serve(self, client: _Client, request: bytes) -> None:
        """Answer a request."""
        self._keeper.start("metrics", self._answer(client, request))

    async def _answer(self, client: _Client, request: bytes) -> None:
        taken = self._read()

        def work() -> bytes:
            from crib.observe.exposition import answer

            return answer(request, taken)

        try:
            client.send(await self._in_thread("writing metrics", work))
        except TimeoutError as error:
            _log.warning("metrics: %s", error)
            client.abort()
        except Exception:
            _log.exception("metrics cannot be told")
            client.abort()


class _Client(asyncio.Protocol):
    """One connection: a request, an answer, the end."""

    def __init__(self, server: MetricsServer) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._limit: asyncio.TimerHandle
        self._request = b""
        self._is_served = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._limit = asyncio.get_running_loop().call_later(SECONDS, self.abort)
        if len(self._server.clients) >= CLIENTS:
            self.abort()
        else:
            self._server.clients.add(self)

    def data_received(self, data: bytes) -> None:
        if self._is_served:
            return
        self._request += data
        if b"\r\n\r\n" in self._request:
            self._is_served = True
            self._server.serve(self, self._request)
        elif len(self._request) > HEAD_BYTES:
            self.abort()

    def eof_received(self) -> bool:
        return self._is_served  # who has asked may say that it has nothing to add

    def connection_lost(self, error: Exception | None) -> None:
        self._limit.cancel()
        self._server.clients.discard(self)

    def send(self, answer: bytes) -> None:
        """Send it, then close the connection, when the client has taken all of it."""
        self._transport.write(answer)
        self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()
