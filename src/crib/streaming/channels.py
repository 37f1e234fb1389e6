"""The channels of a WebSocket as sources and sinks of bytes (messages: `crib.wire.channel_messages`)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator

from crib.model.streams import TerminalSize
from crib.streaming.room import Room
from crib.streaming.websocket import PROTOCOL_ERROR, Part, WebSocket
from crib.wire import channel_messages as messages
from crib.wire.remotecommand import CHANNELS, MalformedRequest, ResizeDecoder, StreamType, Wanted

_log = logging.getLogger(__name__)

SMALL_CHUNK = 1 << 10
"""Pieces are joined up to here: a flood of tiny ones would cost 30 times what it brings."""
WRITE_BYTES = 64 << 10
"""Of one message: a channel that has little to say waits for no more than that."""


class ChannelReader:
    """The messages of a WebSocket in pieces for channels: what is binary is passed on as it comes."""

    def __init__(self, socket: WebSocket, protocol: messages.ChannelProtocol) -> None:
        self._socket = socket
        self._protocol = protocol
        self._held = bytearray()
        self._channel: int | None = None

    async def next(self) -> messages.Message | None:
        """None when the client has closed. MalformedMessage, ConnectionError; the client is told."""
        try:
            while (part := await self._socket.part()) is not None:
                if (message := self._take(part)) is not None:
                    return message
        except messages.MalformedMessage as error:
            self._socket.close(PROTOCOL_ERROR, str(error))
            raise
        return None

    def _take(self, part: Part) -> messages.Message | None:
        if part.first:
            self._channel = None
        if self._channel is not None:
            return messages.Message(self._channel, part.data)
        self._held += part.data
        if len(self._held) > messages.MAX_MESSAGE:
            raise messages.MalformedMessage(f"message of more than {messages.MAX_MESSAGE} bytes")
        if not part.last and not messages.is_begun(self._protocol, self._held):
            return None
        message = messages.decode_message(self._protocol, bytes(self._held))
        self._held.clear()
        self._channel = message.channel if message is not None else None
        return message


class ChannelSource:
    """Bytes of one channel. See ports.ByteSource."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._broken = ""
        self._wake = asyncio.Event()

    async def read(self) -> bytes:
        """ConnectionError when the client went away without an end of this channel."""
        while not self._chunks:
            if self._ended:
                return b""
            if self._broken:
                raise ConnectionResetError(self._broken)
            self._wake.clear()
            await self._wake.wait()
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._room.give(len(data))
        return data

    def feed(self, data: bytes) -> None:
        """What came from the client."""
        if data and not self._ended:
            self._room.take(len(data))
            if self._chunks and len(self._chunks[-1]) < SMALL_CHUNK:
                self._chunks[-1] += data
            else:
                self._chunks.append(data)
            self._wake.set()

    def end(self) -> None:
        """The client sends no more on this channel, or nobody wants it."""
        self._ended = True
        self._wake.set()

    def break_off(self, why: str) -> None:
        """The client has gone."""
        self._broken = self._broken or why
        self._wake.set()

    def discard(self) -> None:
        """Nobody reads any more."""
        self.end()
        self._room.give(sum(map(len, self._chunks)))
        self._chunks.clear()


class ChannelSink:
    """Bytes to one channel. See ports.ByteSink; there is no way to tell a client its end."""

    def __init__(self, socket: WebSocket, protocol: messages.ChannelProtocol, channel: int) -> None:
        self._socket = socket
        self._protocol = protocol
        self._channel = channel

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view) or 1, WRITE_BYTES):
            while self._socket.is_full:
                await self._socket.drain()
            message = messages.encode_message(
                self._protocol, self._channel, view[start : start + WRITE_BYTES]
            )
            self._socket.put([message], text=self._protocol.is_text)
        await self._socket.drain()

    async def close(self) -> None:
        """The outcome, or the end of the WebSocket, tells it."""


class ChannelTerminal:
    """See ports.TerminalStreams. `run` reads the socket and must be running."""

    def __init__(self, socket: WebSocket, protocol: messages.ChannelProtocol, wanted: Wanted) -> None:
        self._socket = socket
        self._protocol = protocol
        self._wanted = wanted
        self._room = Room(socket.has_left)
        kinds = wanted.streams(resize=True)
        self.stdin = ChannelSource(self._room) if StreamType.STDIN in kinds else None
        self.stdout = self._sink(StreamType.STDOUT) if StreamType.STDOUT in kinds else None
        self.stderr = self._sink(StreamType.STDERR) if StreamType.STDERR in kinds else None
        self._error = self._sink(StreamType.ERROR)
        self._decoder = ResizeDecoder()
        self._sizes: deque[TerminalSize] = deque(maxlen=2)
        self._resized = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until the client has closed, has gone or broken the protocol."""
        why = "the client has closed the connection"
        reader = ChannelReader(self._socket, self._protocol)
        try:
            while (said := await reader.next()) is not None:
                self._take(said)
                await self._room.wait()
        except (ConnectionError, messages.MalformedMessage) as error:
            why = str(error)
        finally:
            if self.stdin is not None:
                self.stdin.break_off(why)
            self._ended.set()
            self._resized.set()

    async def ready(self) -> ChannelTerminal:
        """Itself, after a first message: some clients wait for one before they send. ConnectionError."""
        channel = self._wanted.greeting_channel()
        await ChannelSink(self._socket, self._protocol, channel).write(b"")
        return self

    async def finish(self, outcome: bytes) -> None:
        """Tell the outcome and the end, and wait for the client to have read so far."""
        if self.stdin is not None:
            self.stdin.discard()
        if outcome:
            await self._error.write(outcome)
        self._socket.close()
        await self._ended.wait()

    async def resizes(self) -> AsyncIterator[TerminalSize]:
        while not self._ended.is_set():
            await self._resized.wait()
            self._resized.clear()
            while self._sizes:
                yield self._sizes.popleft()

    async def gone(self) -> None:
        await self._ended.wait()

    def _sink(self, kind: StreamType) -> ChannelSink:
        return ChannelSink(self._socket, self._protocol, CHANNELS.index(kind))

    def _take(self, said: messages.Message) -> None:
        """Channels that nobody asked for are not listened to, as other servers have it."""
        if said.channel == CHANNELS.index(StreamType.STDIN) and self.stdin is not None:
            if said.closes:
                self.stdin.end()
            else:
                self.stdin.feed(said.data)
        elif said.channel == CHANNELS.index(StreamType.RESIZE) and self._wanted.tty:
            try:
                found = self._decoder.receive(said.data)
            except MalformedRequest as error:
                _log.info("a terminal is not resized: %s", error)
                self._decoder, found = ResizeDecoder(), []
            for size in found[-2:]:
                self._sizes.append(TerminalSize(size.width, size.height))
                self._resized.set()
