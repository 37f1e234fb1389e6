"""Connections into a pod over SPDY streams, WebSocket channels, or SPDY in a WebSocket's messages.

A connection that fails or is cut off says so on its own error stream, and affects no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from crib.ends import ByteSink, ByteStream
from crib.engine.streams.verbs import Streams
from crib.model.errors import CribError
from crib.model.settings import StreamingSettings
from crib.model.streams import ForwardRequest, PodAddress
from crib.streaming.head import BadRequest, HeadReader, RequestHead, choose_protocol, websocket_key
from crib.streaming.link import ClientLink
from crib.tasks.groups import Group
from crib.tunnel.spdy import Carrier, ServerSession, SpdyStream
from crib.tunnel.websocket import Channels
from crib.wire import channel_messages as messages
from crib.wire import portforward as wire
from crib.wire.remotecommand import ACCEPTED_HEADER, PROTOCOL_HEADER, SPDY_UPGRADE, MalformedRequest

_log = logging.getLogger(__name__)

LAST_BYTES_TIME = 5.0
"""Seconds in which the pod may take what came over a WebSocket's channels before its client went."""

Run = Callable[[ClientLink, HeadReader], Coroutine[Any, Any, None]]


def choose(head: RequestHead, request: ForwardRequest, streams: Streams, settings: StreamingSettings) -> Run:
    """Which protocol the rest of the connection speaks. BadRequest when none fits."""
    forwarding = _Forwarding(request, streams, settings)
    if head.asks_for(SPDY_UPGRADE):
        offered = head.values(PROTOCOL_HEADER.lower())
        if offered and wire.PROTOCOL not in offered:
            problem = f"none of {', '.join(offered)[:500]} is spoken here, but {wire.PROTOCOL}"
            raise BadRequest(403, problem, ((ACCEPTED_HEADER, wire.PROTOCOL),))
        return forwarding.over_spdy
    if not head.asks_for("websocket"):
        raise BadRequest(400, "Upgrade: SPDY/3.1 or websocket is needed here")
    key = websocket_key(head)
    if wire.TUNNEL_PROTOCOL in head.values("sec-websocket-protocol"):
        return lambda link, http: forwarding.through_tunnel(link, http, key)
    protocol = choose_protocol(head, wire.WEBSOCKET_PROTOCOLS)
    try:
        ports = wire.decode_ports(head.query) if head.query else request.ports
    except MalformedRequest as error:
        raise BadRequest(400, str(error)) from error
    if not 0 < len(ports) <= wire.MAX_PORTS:
        raise BadRequest(400, f"a WebSocket needs 1 to {wire.MAX_PORTS} ports in its query")
    return lambda link, http: forwarding.over_websocket(link, http, _Handshake(key, protocol, ports))


@dataclass(frozen=True, slots=True)
class _Handshake:
    key: str
    protocol: messages.ChannelProtocol
    ports: tuple[int, ...]


@dataclass(slots=True)
class _Forwarding:
    """One request, whatever it comes over."""

    request: ForwardRequest
    streams: Streams
    settings: StreamingSettings
    _count: int = 0

    async def over_spdy(self, link: ClientLink, http: HeadReader) -> None:
        http.switch(SPDY_UPGRADE, [(PROTOCOL_HEADER, wire.PROTOCOL)])
        await self._spdy(link, link)

    async def through_tunnel(self, link: ClientLink, http: HeadReader, key: str) -> None:
        socket = http.accept_websocket(key, wire.TUNNEL_PROTOCOL)
        await self._spdy(socket, link)
        socket.close()

    async def over_websocket(self, link: ClientLink, http: HeadReader, handshake: _Handshake) -> None:
        """One connection for each port, from the start; the WebSocket ends with the last of them."""
        protocol, ports = handshake.protocol, handshake.ports
        socket = http.accept_websocket(handshake.key, protocol.name)
        channels = Channels(socket, protocol, range(2 * len(ports)), link.room())
        served = [
            (port, channels.by_number[wire.data_channel(at)], channels.by_number[wire.error_channel(at)])
            for at, port in enumerate(ports)
        ]
        with self._telling_end():
            async with Group() as group:
                for _, _, error in served:
                    error.discard()  # what a client sends there, nobody reads
                reading = group.start("channels", channels.run())
                try:
                    for port, *both in served:
                        for channel in both:
                            await channel.write(wire.encode_port(port))
                except ConnectionError:
                    return
                connections = [
                    group.start(f"port {port}", self._connection(wire.Target("tcp", port), data, error))
                    for port, data, error in served
                ]
                loop = asyncio.get_running_loop()
                reading.add_done_callback(lambda _: loop.call_later(LAST_BYTES_TIME, _cancel, connections))
                await asyncio.wait(connections)
                socket.close()
                await reading

    async def _spdy(self, carrier: Carrier, link: ClientLink) -> None:
        session = ServerSession(carrier, link.room(), self.settings.max_streams, cuts_off=True)
        with self._telling_end():
            async with Group() as group:
                group.start("session", session.run())
                connections = group.start("connections", self._connections(session))
                await session.ended()
                connections.cancel()

    async def _connections(self, session: ServerSession) -> None:
        """Join the streams that the client opens to pairs, and serve each pair in a task of its own."""
        halves = _Halves()
        async with Group() as group:
            while True:
                try:
                    async with asyncio.timeout(halves.patience()):
                        stream = await session.opened()
                except TimeoutError:
                    halves.refuse_late()
                    continue
                if stream is None:
                    return
                try:
                    pair = halves.add(stream)
                except MalformedRequest as error:
                    _log.debug("forward to sandbox %s: a stream is refused: %s", self.request.sandbox, error)
                    stream.abort()
                    continue
                with contextlib.suppress(ConnectionError):
                    stream.accept()
                if pair is not None:
                    group.start("connection", self._connection(*pair))

    async def _connection(self, target: wire.Target, client: ByteStream, words: ByteSink) -> None:
        """One connection, to its end; what goes wrong with it is reported on its own error stream."""
        self._count += 1
        address = PodAddress(target.kind, target.port, target.container, target.path)
        try:
            problem = await self._connect(address, client, words)
        except Exception:
            _log.exception(
                "forward to sandbox %s, %s, failed as it should not", self.request.sandbox, address
            )
            problem = "crib failed, see its log"
        if problem:
            _log.info("forward to sandbox %s, %s: %s", self.request.sandbox, address, problem)
            with contextlib.suppress(ConnectionError):
                await words.write(problem.encode())
                await words.close()
        client.abort()

    async def _connect(self, address: PodAddress, client: ByteStream, words: ByteSink) -> str:
        """What went wrong, if anything did; otherwise all has come to its end on both sides."""
        try:
            target = await self.streams.dial(self.request, address)
        except CribError as error:
            return str(error)
        if isinstance(client, SpdyStream):
            client.when_broken(target.abort)  # or a target that takes nothing would be kept
        try:
            async with Group() as group:
                down = group.start("to the pod", _down(client, target, has_end=address.kind != "udp"))
                problem = await _up(target, client)
                if problem:
                    down.cancel()
                else:
                    # Clients wait for this before they let go of their own side.
                    with contextlib.suppress(ConnectionError):
                        await words.close()
        finally:
            target.abort()
        return problem

    @contextlib.contextmanager
    def _telling_end(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            sandbox, spent = self.request.sandbox, time.monotonic() - began
            _log.info("forward to sandbox %s: %d connections within %.1f s", sandbox, self._count, spent)


def _cancel(connections: list[asyncio.Task[None]]) -> None:
    for connection in connections:
        connection.cancel()


async def _down(client: ByteStream, target: ByteStream, *, has_end: bool) -> None:
    """What the client sends, until its end, which is all there is where the target has no end itself.

    What the target no longer takes is dropped; reading from it shows why.
    """
    takes = True
    try:
        while data := await client.read():
            if takes:
                try:
                    await target.write(data)
                except OSError:
                    takes = False
        if has_end:
            await target.close()
        else:
            target.abort()
    except ConnectionError:
        target.abort()  # nobody is there for what it answers


async def _up(target: ByteStream, client: ByteStream) -> str:
    """What the target sends, until its end; why, if that was not a good one."""
    while True:
        try:
            data = await target.read()
        except OSError as error:
            if isinstance(error, ConnectionResetError) and isinstance(client, SpdyStream):
                # As a program of the pod may do at any time (PostgreSQL does after TLS). Of words kubectl
                # would end the session with all of its connections; this ends the one only.
                client.abort()
                return ""
            return f"the connection broke: {error.strerror or error}"
        try:
            if not data:
                await client.close()
                return ""
            await client.write(data)
        except ConnectionError:
            target.abort()
            return ""


class _Halves:
    """Streams that wait for their other half."""

    def __init__(self) -> None:
        self._pairing = wire.Pairing()
        self._streams: dict[int, SpdyStream] = {}

    def add(self, stream: SpdyStream) -> tuple[wire.Target, SpdyStream, SpdyStream] | None:
        """The pair that is whole with this stream: data and error. MalformedRequest when it fits none."""
        for stream_id in [each for each, waiting in self._streams.items() if waiting.broken]:
            self._pairing.drop(stream_id)
            del self._streams[stream_id]
        asked = wire.decode_stream(stream.stream_id, stream.headers)
        pair = self._pairing.add(asked, time.monotonic())
        self._streams[stream.stream_id] = stream
        if pair is None:
            return None
        return pair.target, self._streams.pop(pair.data_stream), self._streams.pop(pair.error_stream)

    def patience(self) -> float | None:
        """Seconds until `refuse_late` has something to do."""
        expiry = self._pairing.next_expiry()
        return None if expiry is None else max(0.0, expiry - time.monotonic())

    def refuse_late(self) -> None:
        """Reset those that have waited too long."""
        for late in self._pairing.expire(time.monotonic()):
            self._streams.pop(late.stream_id).abort()
