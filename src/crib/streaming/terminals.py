"""The client's end of exec and attach: its streams over SPDY, or the channels of its WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping

from crib.ends import ByteSource
from crib.model.streams import TerminalSize
from crib.streaming.link import ClientLink
from crib.tunnel.spdy import ServerSession, SpdyStream
from crib.tunnel.websocket import Channel, Channels, WebSocket
from crib.wire import remotecommand as wire
from crib.wire.channel_messages import ChannelProtocol
from crib.wire.remotecommand import StreamType


class ClientTerminal(ABC):
    """See ends.TerminalStreams. Whoever makes it keeps the connection's `run` running meanwhile."""

    def __init__(self, streams: Mapping[StreamType, Channel | SpdyStream]) -> None:
        self._resize = streams.get(StreamType.RESIZE)
        self._error = streams[StreamType.ERROR]
        self.stdin = streams.get(StreamType.STDIN)
        self.stdout = streams.get(StreamType.STDOUT)
        self.stderr = streams.get(StreamType.STDERR)

    async def resizes(self) -> AsyncIterator[TerminalSize]:
        if self._resize is not None:
            async for size in sizes(self._resize):
                yield size

    @abstractmethod
    async def gone(self) -> None:
        """See ends.TerminalStreams."""

    @abstractmethod
    async def finish(self, outcome: bytes) -> None:
        """Tell the outcome, and wait for the client to have read so far and to go. ConnectionError."""


class SpdyTerminal(ClientTerminal):
    """Over SPDY."""

    def __init__(self, session: ServerSession, streams: Mapping[StreamType, SpdyStream]) -> None:
        super().__init__(streams)
        self._session = session

    async def gone(self) -> None:
        await self._session.ended()

    async def finish(self, outcome: bytes) -> None:
        """No GOAWAY, and the client closes the connection.

        Go's clients drop what they have not handed to their readers yet when they see a GOAWAY, or the end of
        the connection. They close it themselves when they have all.
        """
        self._session.discard()
        for output in (self.stdout, self.stderr):  # of a command that never was: clients wait for their ends
            if output is not None:
                with contextlib.suppress(ConnectionError):
                    await output.close()
        await self._error.write(outcome)
        await self._error.close()
        await self._session.ended()


class WebSocketTerminal(ClientTerminal):
    """Over the channels of a WebSocket."""

    def __init__(
        self, socket: WebSocket, link: ClientLink, protocol: ChannelProtocol, wanted: wire.Wanted
    ) -> None:
        numbers = {kind: wire.CHANNELS.index(kind) for kind in wanted.streams(resize=True)}
        self.channels = Channels(socket, protocol, numbers.values(), link.room())
        streams = {kind: self.channels.by_number[number] for kind, number in numbers.items()}
        for kind in streams.keys() - {StreamType.STDIN, StreamType.RESIZE}:
            streams[kind].discard()  # what a client sends there, nobody reads
        super().__init__(streams)
        self._socket = socket
        self._greeting = wanted.greeting_channel()

    async def ready(self) -> WebSocketTerminal:
        """Itself, after a first message: some clients wait for one before they send. ConnectionError."""
        await self.channels.by_number[self._greeting].write(b"")
        return self

    async def gone(self) -> None:
        await self.channels.ended()

    async def finish(self, outcome: bytes) -> None:
        for channel in self.channels.by_number.values():
            channel.discard()
        if outcome:
            await self._error.write(outcome)
        self._socket.close()
        await self.channels.ended()


async def collect(
    session: ServerSession, expected: frozenset[StreamType], limit: float
) -> Mapping[StreamType, SpdyStream]:
    """The streams that the client must open, within `limit` seconds; others are refused one by one.

    ConnectionError when it does not, or has gone.
    """
    found: dict[StreamType, SpdyStream] = {}
    try:
        async with asyncio.timeout(limit):
            while len(found) < len(expected):
                stream = await session.opened()
                if stream is None:
                    raise ConnectionResetError("the client left before it had opened its streams")
                try:
                    kind = wire.stream_type(stream.headers)
                except wire.MalformedRequest:
                    stream.abort()
                    continue
                if kind not in expected or kind in found:
                    stream.abort()
                    continue
                stream.accept()
                found[kind] = stream
    except TimeoutError:
        raise ConnectionAbortedError(f"the client did not open its streams within {limit:g} s") from None
    session.refuse_more()
    return found


async def sizes(source: ByteSource) -> AsyncIterator[TerminalSize]:
    """The newest of the sizes that have come, until the source ends."""
    decoder = wire.ResizeDecoder()
    with contextlib.suppress(ConnectionError):
        while data := await source.read():
            for size in decoder.receive(data):
                yield TerminalSize(size.width, size.height)
