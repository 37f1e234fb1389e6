"""Connections to what listens in a pod: its ports, and with crib also its unix sockets."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from crib.client.connection import Connection
from crib.client.errors import RuntimeFailure, Unavailable
from crib.client.streams.link import connect_spdy, connect_websocket
from crib.client.streams.runtime_stream import UNREAD_BYTES, RuntimeStream, open_streams
from crib.client.streams.session import Transport, first_spoken, running
from crib.stubs.node.v1.node_pb2 import ForwardRequest
from crib.stubs.runtime.v1.api_pb2 import PortForwardRequest
from crib.tunnel.inbox import Room
from crib.tunnel.link import Link
from crib.tunnel.spdy import ClientSession
from crib.tunnel.websocket import WebSocket
from crib.wire import portforward
from crib.wire.portforward import StreamKind, Target

MAX_WORDS = 4 << 10
"""Maximum bytes of an error text that are passed on."""


class ForwardedConnection:
    """One connection to the pod, both ways. Of UDP it carries frames (`wire.portforward`)."""

    def __init__(self, data: RuntimeStream, error: RuntimeStream) -> None:
        self._data = data
        self._error = error
        self._words = ""

    async def read(self) -> bytes:
        """The available bytes, at least one; empty at the end and from then on.

        RuntimeFailure with the runtime's words if it could not connect or the connection broke.
        """
        try:
            data = await self._data.read()
        except Unavailable:
            await self._raise_words()
            raise
        if not data:
            await self._raise_words()
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def write(self, data: bytes | memoryview) -> None:
        """Returns when there is room for more. RuntimeFailure, Unavailable."""
        try:
            await self._data.write(data)
        except Unavailable:
            await self._raise_words()
            raise

    async def close(self) -> None:
        """No more comes from us: what listens reads an end. Safe to repeat."""
        await self._data.close()

    async def _raise_words(self) -> None:
        """The text on the error stream; the runtime writes it before it ends the data."""
        if self._error.has_begun and not self._words:
            self._words = (await self._error.read())[:MAX_WORDS].decode("utf-8", "replace")
        if self._words:
            raise RuntimeFailure(self._words)


async def forward_url(connection: Connection, pod_id: str, targets: Sequence[Target]) -> str:
    """Where connections to these can be opened, once; ClientError. NotOffered for what only crib forwards."""
    if all(target.kind == "tcp" for target in targets):
        ports = [target.port for target in targets]
        reply = await connection.call(
            connection.runtime.PortForward, PortForwardRequest(pod_sandbox_id=pod_id, port=ports)
        )
        return reply.url
    request = ForwardRequest(pod_sandbox_id=pod_id, targets=map(str, targets))
    return (await connection.call(connection.node.Forward, request)).url


@contextlib.asynccontextmanager
async def forward(
    connection: Connection, pod_id: str, target: Target, transport: Transport = "auto", ca_file: str = ""
) -> AsyncIterator[ForwardedConnection]:
    """Connect to something in a pod. Leaving the block ends the connection.

        async with streams.forward(crib, pod_id, Target("tcp", 80)) as peer:
            await peer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
            async for data in peer: ...

    Each connection has its own session with the runtime: most runtimes know no windows, and in a shared
    session one slow reader would hold up all others. ClientError; `read` reports a refused connection.
    """

    async def tunnel() -> WebSocket:
        url = await forward_url(connection, pod_id, (target,))
        return await connect_websocket(url, portforward.TUNNEL_PROTOCOL, ca_file)

    async def over_spdy() -> Link:
        url = await forward_url(connection, pod_id, (target,))
        return await connect_spdy(url, (portforward.PROTOCOL,), ca_file)

    carrier = await first_spoken(connection, transport, tunnel, over_spdy)
    session = ClientSession(carrier, Room(UNREAD_BYTES))
    wanted = [portforward.stream_headers(kind, target, "0") for kind in (StreamKind.ERROR, StreamKind.DATA)]
    async with running(session.run(), carrier.abort):
        error, data = await open_streams(session, wanted)
        await error.close()
        yield ForwardedConnection(data, error)
