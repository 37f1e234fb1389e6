"""The streams of a fake runtime: exec, attach and port-forward over SPDY/3.1 on loopback.

A WebSocket is refused, as containerd and CRI-O refuse it; clients go on with SPDY. The bytes go through
`crib.tunnel`, as those of crib do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex

import h11

from crib.stubs.runtime.v1 import api_pb2 as cri
from crib.testing.world import FakeProgram, FakeWorld
from crib.tunnel.inbox import Room
from crib.tunnel.link import Link
from crib.tunnel.spdy import ServerSession, SpdyStream
from crib.wire import portforward, remotecommand
from crib.wire.remotecommand import SpdyProtocol, StreamType, Wanted

UNREAD_BYTES = 1 << 20
"""Held of one connection for what reads late."""
MAX_STREAMS = 100
_REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Play = Callable[[ServerSession, SpdyProtocol], Awaitable[None]]


@dataclass(slots=True)
class FakeStreams:
    """Of one world. All of it happens in the server's thread."""

    world: FakeWorld
    _server: asyncio.Server | None = None
    _plays: dict[str, Play] = field(default_factory=dict)
    """By the token of their URL, which is good once."""
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _FakeEnd(self._begin), "127.0.0.1", 0)

    async def stop(self) -> None:
        """End all streams."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def exec_url(self, request: cri.ExecRequest) -> str:
        """Where the command runs, once."""
        return self._url(lambda session, protocol: self._exec(request, session, protocol))

    def attach_url(self, request: cri.AttachRequest) -> str:
        """Where what the container's program is said to write comes out, once."""
        return self._url(lambda session, protocol: self._attach(request, session, protocol))

    def forward_url(self) -> str:
        """Where the world's ports are, for connections of one session."""
        return self._url(lambda session, _: self._forward(session))

    def _url(self, play: Play) -> str:
        assert self._server is not None
        token = token_hex(8)
        self._plays[token] = play
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{token}"

    def _begin(self, link: Link) -> None:
        task = asyncio.ensure_future(self._serve(link))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, link: Link) -> None:
        try:
            with contextlib.suppress(ConnectionError, h11.RemoteProtocolError):
                found = await _upgraded(link, self._plays)
                if found is not None:
                    await _both(link, *found)
        finally:
            link.abort()

    async def _exec(self, request: cri.ExecRequest, session: ServerSession, protocol: SpdyProtocol) -> None:
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.tty)
        streams = await _opened(session, wanted, protocol)
        program = self.world.program(list(request.cmd), FakeProgram())
        if program.refusal:
            await _finish(streams, remotecommand.Failed(program.refusal), protocol)
            return

        async def take(data: bytes) -> None:
            await _write(streams, "stdout", data if program.cats else b"")

        async with _taking_input(streams, take) as reading:
            if program.cats:
                await reading
            await _write(streams, "stdout", program.out)
            await _write(streams, "stderr", program.err)
            await asyncio.sleep(float("inf") if program.code is None else program.seconds)
            await _finish(streams, remotecommand.Exited(program.code or 0), protocol)

    async def _attach(
        self, request: cri.AttachRequest, session: ServerSession, protocol: SpdyProtocol
    ) -> None:
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.tty)
        with self.world.listening(request.container_id) as said:
            streams = await _opened(session, wanted, protocol)
            given = self.world.inputs.setdefault(request.container_id, bytearray())

            async def take(data: bytes) -> None:
                given.extend(data)

            async with _taking_input(streams, take):
                while (piece := await said.get()) is not None:
                    await _write(streams, *piece)
                await _finish(streams, remotecommand.Exited(0), protocol)

    async def _forward(self, session: ServerSession) -> None:
        pairing, streams = portforward.Pairing(), dict[int, SpdyStream]()
        async with asyncio.TaskGroup() as group:
            while (stream := await session.opened()) is not None:
                streams[stream.stream_id] = stream
                asked = portforward.decode_stream(stream.stream_id, stream.headers)
                pair = pairing.add(asked, time.monotonic())
                stream.accept()
                if pair is not None:
                    both = streams.pop(pair.data_stream), streams.pop(pair.error_stream)
                    group.create_task(self._connection(pair.target.port, *both))

    async def _connection(self, port: int, data: SpdyStream, words: SpdyStream) -> None:
        answer = self.world.ports.get(port)
        with contextlib.suppress(ConnectionError):
            if answer is None:
                await words.write(f"nothing listens on port {port}".encode())
                await words.close()
                data.abort()
                return
            while piece := await data.read():
                await data.write(answer(bytes(piece)))
            await data.close()
            await words.close()


class _FakeEnd(Link):
    def __init__(self, begin: Callable[[Link], None]) -> None:
        super().__init__()
        self._begin = begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._begin(self)


async def _upgraded(link: Link, plays: dict[str, Play]) -> tuple[Play, SpdyProtocol] | None:
    """What is to be played, and in which version; None for what is refused."""
    http = h11.Connection(h11.SERVER)
    request: h11.Request | None = None
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Request):
            request = event
        elif data := await link.receive():
            http.receive_data(data)
        else:
            return None
    assert request is not None
    headers = [(name.decode(), value.decode("latin-1")) for name, value in request.headers]
    play = plays.pop(request.target.decode("ascii", "replace").strip("/"), None)
    upgrades = [value for name, value in headers if name == "upgrade"]
    offered = [value for name, value in headers if name == remotecommand.PROTOCOL_HEADER.lower()]
    protocol = remotecommand.choose_spdy(offered) or remotecommand.SPDY_PROTOCOLS[-1]
    if play is None or upgrades != [remotecommand.SPDY_UPGRADE]:
        link.put([_REFUSED])
        await link.drain()
        return None
    name = portforward.PROTOCOL if portforward.PROTOCOL in offered else protocol.name
    answer = h11.InformationalResponse(
        status_code=101,
        headers=[
            ("Upgrade", remotecommand.SPDY_UPGRADE),
            ("Connection", "Upgrade"),
            (remotecommand.PROTOCOL_HEADER, name),
        ],
    )
    link.put([http.send(answer) or b""])
    link.push_back(bytes(http.trailing_data[0]))
    return play, protocol


async def _both(link: Link, play: Play, protocol: SpdyProtocol) -> None:
    """The session and what is played in it, until the client goes."""
    session = ServerSession(link, Room(UNREAD_BYTES), MAX_STREAMS)
    playing = asyncio.ensure_future(play(session, protocol))
    try:
        await session.run()
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


async def _opened(
    session: ServerSession, wanted: Wanted, protocol: SpdyProtocol
) -> Mapping[StreamType, SpdyStream]:
    """The streams that belong to the request. ConnectionError when the client leaves before."""
    expected = wanted.streams(resize=protocol.has_resize)
    found: dict[StreamType, SpdyStream] = {}
    while len(found) < len(expected):
        stream = await session.opened()
        if stream is None:
            raise ConnectionResetError("the client left before it had opened its streams")
        stream.accept()
        found[remotecommand.stream_type(stream.headers)] = stream
    return found


@contextlib.asynccontextmanager
async def _taking_input(
    streams: Mapping[StreamType, SpdyStream], take: Callable[[bytes], Awaitable[None]]
) -> AsyncIterator[asyncio.Task[None]]:
    """Meanwhile all that comes to the standard input is taken; the task is done at its end."""
    stdin = streams.get(StreamType.STDIN)

    async def read() -> None:
        while stdin is not None and (data := await stdin.read()):
            await take(bytes(data))

    reading = asyncio.ensure_future(read())
    try:
        yield reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _write(streams: Mapping[StreamType, SpdyStream], name: str, data: bytes) -> None:
    """To where the client listens for it; a terminal has one stream only."""
    stream = streams.get(StreamType(name)) or streams.get(StreamType.STDOUT)
    if stream is not None and data:
        await stream.write(data)


async def _finish(
    streams: Mapping[StreamType, SpdyStream], outcome: remotecommand.Outcome, protocol: SpdyProtocol
) -> None:
    for kind in (StreamType.STDOUT, StreamType.STDERR):
        if kind in streams:
            await streams[kind].close()
    error = streams[StreamType.ERROR]
    await error.write(remotecommand.encode_outcome(outcome, has_status=protocol.has_status))
    await error.close()
