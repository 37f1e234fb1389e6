"""WebSocket messages over one connection (RFC 6455; frames: wsproto), and the channels of Kubernetes in them.

A WebSocket carries channels (messages: `crib.wire.channel_messages`), or SPDY's bytes in binary messages, as
kubectl's port-forward does since 1.30: then it is a `Carrier` of `crib.tunnel.spdy`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import wsproto.connection as ws
from wsproto import events
from wsproto.utilities import LocalProtocolError, generate_accept_token

from crib.tunnel.inbox import Inbox, Room
from crib.tunnel.link import Link
from crib.wire import channel_messages as messages
from crib.wire.spdy.reader import Buffer

VERSION = "13"
TURN_EVENTS = 64
"""Frames after which others get their turn: an empty one costs some 50 us, and 100,000 may be there."""
WRITE_BYTES = 64 << 10
"""Of one message: a channel that has little to say waits for no more than that."""
NORMAL, PROTOCOL_ERROR, NO_STATUS = 1000, 1002, 1005
"""Codes of a close frame (RFC 6455, section 7.4.1)."""
_TEXT, _BINARY = 1, 2
_FIN = 0x80

Role = Literal["server", "client"]
_PEER: dict[Role, str] = {"server": "client", "client": "runtime"}


def accept_token(key: str) -> str:
    """What a server answers to a client's key (RFC 6455, section 4.2.2)."""
    return generate_accept_token(key.encode()).decode()


class Part(NamedTuple):
    """A piece of a message, not always all of it; `first` and `last` say whether it begins and ends one."""

    data: bytes
    first: bool
    last: bool


class WebSocket:
    """One end of a WebSocket, after its handshake. One task receives; any number may send."""

    def __init__(self, link: Link, role: Role) -> None:
        self.role = role
        self._link = link
        self._frames = ws.Connection(
            ws.ConnectionType.SERVER if role == "server" else ws.ConnectionType.CLIENT
        )
        self._events = self._frames.events()
        self._is_fresh = True
        self._turn = 0

    async def part(self) -> Part | None:
        """What the peer sends next; None when it has closed in order. ConnectionError when it has not."""
        while True:
            for event in self._events:
                self._turn += 1
                if self._turn >= TURN_EVENTS:
                    self._turn = 0
                    await asyncio.sleep(0)
                if isinstance(event, events.Message):
                    data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                    part = Part(data, self._is_fresh, event.message_finished)
                    self._is_fresh = event.message_finished
                    return part
                if isinstance(event, events.Ping):
                    self._answer(event.response())
                elif isinstance(event, events.CloseConnection):
                    self._answer(event.response())
                    if event.code in (NORMAL, NO_STATUS):
                        return None
                    raise ConnectionResetError(f"closed with code {int(event.code)}: {event.reason or ''}")
            data = await self._link.receive()
            if not data:
                raise ConnectionResetError("closed without a reason")
            self._frames.receive_data(data)
            self._events = self._frames.events()

    async def receive(self) -> bytes:
        """Some bytes, whatever messages they are in; empty when the peer has closed in order.

        ConnectionError when it has not.
        """
        while (part := await self.part()) is not None:
            if part.data:
                return part.data
        return b""

    @property
    def is_full(self) -> bool:
        """See Link."""
        return self._link.is_full

    def put(self, data: Sequence[Buffer], *, text: bool = False) -> None:
        """Send one message without waiting. ConnectionError when the peer has gone."""
        if self._frames.state is not ws.ConnectionState.OPEN:
            raise ConnectionResetError("the WebSocket is closed")
        if self.role == "server":
            # wsproto would copy the data four times.
            self._link.put([_head(_TEXT if text else _BINARY, sum(map(len, data))), *data])
            return
        whole = b"".join(data)
        message = events.TextMessage(whole.decode()) if text else events.BytesMessage(whole)
        self._link.put([self._frames.send(message)])

    async def drain(self) -> None:
        """See Link."""
        await self._link.drain()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say goodbye; `part` then waits for the peer's own."""
        try:
            self._link.put(
                [self._frames.send(events.CloseConnection(code=code, reason=reason[:100] or None))]
            )
        except (LocalProtocolError, ConnectionError):
            pass  # it has closed before us, or has gone

    def abort(self) -> None:
        """See Link."""
        self._link.abort()

    def _answer(self, event: events.Event) -> None:
        """Without waiting, or not at all: a reader that waits for the peer to read can wait forever."""
        if self._link.is_full:
            return
        try:
            self._link.put([self._frames.send(event)])
        except (LocalProtocolError, ConnectionError):
            pass  # both sides close at once


def _head(opcode: int, size: int) -> bytes:
    """Of a whole message in one frame, which a server does not mask (RFC 6455, section 5.2)."""
    if size < 126:
        return bytes((_FIN | opcode, size))
    if size < 1 << 16:
        return struct.pack(">BBH", _FIN | opcode, 126, size)
    return struct.pack(">BBQ", _FIN | opcode, 127, size)


class Channel(Inbox):
    """One channel of a WebSocket, both ways. See ends.ByteStream."""

    def __init__(self, channels: Channels, number: int) -> None:
        super().__init__(channels.room)
        self._socket = channels.socket
        self._protocol = channels.protocol
        self._number = number
        self._closed = False

    async def write(self, data: Buffer) -> None:
        view = memoryview(data)
        for start in range(0, len(view) or 1, WRITE_BYTES):
            piece = view[start : start + WRITE_BYTES]
            await self._send(messages.encode_message(self._protocol, self._number, piece))

    async def close(self) -> None:
        """No more comes from us. A server cannot say so: there it ends what the client sends, too."""
        if self._socket.role == "server" or not self._protocol.has_close:
            self.discard()
        elif not self._closed and not self.broken:
            self._closed = True
            await self._send(messages.encode_close(self._protocol, self._number))

    def abort(self) -> None:
        """What arrives is dropped from now on; the protocol cannot tell the peer."""
        self.discard()

    async def _send(self, message: bytes) -> None:
        """ConnectionError when nobody takes it."""
        # All writers wake when there is room, and the first of them may fill it.
        while self._socket.is_full:
            await self._socket.drain()
        self._socket.put([message], text=self._protocol.is_text)
        await self._socket.drain()


class Channels:
    """The channels of one WebSocket. `run` reads it and must be running for anything to move.

    What comes for a channel that is not there is dropped, as other servers have it.
    """

    def __init__(
        self, socket: WebSocket, protocol: messages.ChannelProtocol, numbers: Iterable[int], room: Room
    ) -> None:
        self.socket = socket
        self.protocol = protocol
        self.room = room
        self.by_number = {number: Channel(self, number) for number in numbers}
        self._ended = asyncio.Event()
        self._held = bytearray()
        """The beginning of a message, until it says for which channel it is."""
        self._channel: int | None = None

    async def run(self) -> None:
        """Until the peer has closed, has gone or broken the protocol; then every channel is cut off.

        A server that closes in order has said all, so its channels have ended.
        """
        peer = _PEER[self.socket.role]
        why = f"the {peer} closed the connection"
        try:
            while (part := await self.socket.part()) is not None:
                if (message := self._message(part)) is not None:
                    self._take(message)
                    await self.room.wait()
            if self.socket.role == "client":
                for channel in self.by_number.values():
                    channel.end()
        except messages.MalformedMessage as error:
            why = f"the {peer} broke the protocol: {error}"
            self.socket.close(PROTOCOL_ERROR, str(error))
        except ConnectionError as error:
            why = f"the connection broke: {error}"
        finally:
            for channel in self.by_number.values():
                channel.break_off(why)
            self._ended.set()

    async def ended(self) -> None:
        """Returns when `run` has."""
        await self._ended.wait()

    def _message(self, part: Part) -> messages.Message | None:
        """What is binary is passed on as it comes. MalformedMessage."""
        if part.first:
            self._channel = None
        if self._channel is not None:
            return messages.Message(self._channel, part.data)
        self._held += part.data
        if len(self._held) > messages.MAX_MESSAGE:
            raise messages.MalformedMessage(f"message of more than {messages.MAX_MESSAGE} bytes")
        if not part.last and not messages.is_begun(self.protocol, self._held):
            return None
        message = messages.decode_message(self.protocol, bytes(self._held))
        self._held.clear()
        self._channel = message.channel if message is not None else None
        return message

    def _take(self, message: messages.Message) -> None:
        channel = self.by_number.get(message.channel)
        if channel is None:
            return
        channel.feed(message.data)
        if message.closes:
            channel.end()
