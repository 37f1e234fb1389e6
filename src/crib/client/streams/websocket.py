"""WebSockets as a client opens them (RFC 6455; frames: wsproto), and the channels in them."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

import wsproto.connection as ws
from wsproto import events
from wsproto.utilities import LocalProtocolError, generate_accept_token

from crib.client.errors import Unavailable
from crib.client.streams.incoming import Incoming, Room
from crib.client.streams.link import Link, Upgrade, UpgradeRefused, upgrade
from crib.wire import channel_messages
from crib.wire.spdy.reader import Buffer

WRITE_BYTES = 64 << 10
"""Of one message."""
_IN_ORDER = (1000, 1005)
"""Codes of a close frame: normal, and none (RFC 6455, section 7.4.1)."""
_CLOSE = channel_messages.encode_close(channel_messages.V5, 0)[0]


class Part(NamedTuple):
    """A piece of a message, not always all of it: `is_last` says that the message ends with it."""

    data: bytes
    is_last: bool


class WebSocket:
    """The client's side of one WebSocket."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._frames = ws.Connection(ws.ConnectionType.CLIENT)

    @property
    def is_full(self) -> bool:
        """See Link."""
        return self._link.is_full

    async def parts(self) -> AsyncIterator[Part]:
        """What the runtime sends, until it closes in order. ConnectionError when it does not."""
        while True:
            for event in self._frames.events():
                if isinstance(event, events.CloseConnection):
                    self._answer(event.response())
                    if event.code not in _IN_ORDER:
                        raise ConnectionResetError(f"closed with code {event.code}: {event.reason or ''}")
                    return
                if isinstance(event, events.Ping):
                    self._answer(event.response())
                elif isinstance(event, events.Message):
                    yield _part(event)
            data = await self._link.receive()
            if not data:
                raise ConnectionResetError("closed without a word")
            self._frames.receive_data(data)

    def put(self, data: bytes) -> None:
        """Buffer one message. ConnectionError when the runtime has gone."""
        try:
            self._link.put([self._frames.send(events.BytesMessage(data))])
        except LocalProtocolError as error:
            raise ConnectionResetError(str(error)) from error

    async def drain(self) -> None:
        """See Link."""
        await self._link.drain()

    def abort(self) -> None:
        """See Link."""
        self._link.abort()

    def _answer(self, event: events.Event) -> None:
        """Without waiting: a pump that waits for its reader can wait for ever. Pings beyond that get none."""
        if self._link.is_full:
            return
        try:
            self._link.put([self._frames.send(event)])
        except (LocalProtocolError, ConnectionError):
            pass  # both sides close at once


def _part(event: events.Message[Any]) -> Part:
    data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
    return Part(data, event.message_finished)


class Tunnel:
    """SPDY's bytes in the binary messages of a WebSocket. See spdy.Carrier."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._parts = socket.parts()

    @property
    def is_full(self) -> bool:
        return self._socket.is_full

    async def receive(self) -> bytes:
        async for part in self._parts:
            if part.data:
                return part.data
        return b""

    def put(self, data: Sequence[Buffer]) -> None:
        self._socket.put(b"".join(data))

    async def drain(self) -> None:
        await self._socket.drain()

    def abort(self) -> None:
        self._socket.abort()


class ClientChannel(Incoming):
    """One channel of a WebSocket of version 5, both ways."""

    def __init__(self, channels: Channels, number: int) -> None:
        super().__init__(channels.room)
        self._socket = channels.socket
        self._number = number
        self._is_closed = False

    async def write(self, data: Buffer) -> None:
        """Returns when there is room for more. Unavailable when nobody takes it."""
        view = memoryview(data)
        for start in range(0, len(view), WRITE_BYTES):
            piece = view[start : start + WRITE_BYTES]
            await self._send(channel_messages.encode_message(channel_messages.V5, self._number, piece))

    async def close(self) -> None:
        """No more comes from us. Safe to repeat, also when the channel is over."""
        if not self._is_closed and not self.broken:
            self._is_closed = True
            with contextlib.suppress(Unavailable):  # nobody is there any more, which who closes cannot know
                await self._send(channel_messages.encode_close(channel_messages.V5, self._number))

    async def _send(self, message: bytes) -> None:
        if self.broken:
            raise Unavailable(self.broken)
        try:
            self._socket.put(message)
            await self._socket.drain()
        except ConnectionError as error:
            raise Unavailable(self.broken or str(error)) from error


class Channels:
    """The channels of one WebSocket. `run` reads it and must be running for anything to move."""

    def __init__(self, socket: WebSocket, numbers: Iterable[int]) -> None:
        self.room = Room()
        self.socket = socket
        self.by_number = {number: ClientChannel(self, number) for number in numbers}

    async def run(self) -> None:
        """Until the WebSocket is closed; then every channel ends, or is broken when that came unexpected."""
        why = ""
        try:
            await self._receive()
        except (ConnectionError, channel_messages.MalformedMessage) as error:
            why = f"the connection broke: {error}"
        finally:
            for channel in self.by_number.values():
                if why:
                    channel.break_off(why)
                else:
                    channel.end()

    async def _receive(self) -> None:
        channel: ClientChannel | None = None
        head: bytes | None = b""
        """The beginning of a message, until it says for which channel it is."""
        async for data, is_last in self.socket.parts():
            rest = data
            if head is not None:
                head += data
                message = _begun(head, is_last=is_last)
                if message is not None:
                    channel, rest, head = self._opened(message), message.data, None
            if channel is not None and head is None:
                channel.feed(rest)
                await self.room.wait()
            if is_last:
                channel, head = None, b""

    def _opened(self, message: channel_messages.Message) -> ClientChannel | None:
        channel = self.by_number.get(message.channel)
        if channel is not None and message.closes:
            channel.end()
        return channel


def _begun(head: bytes, *, is_last: bool) -> channel_messages.Message | None:
    """What a message says by its first bytes; None when that needs more of them. MalformedMessage."""
    if not is_last and (not head or (head[0] == _CLOSE and len(head) <= 2)):
        return None
    return channel_messages.decode_message(channel_messages.V5, head)


async def connect(url: str, subprotocol: str, ca_file: str = "") -> WebSocket:
    """A WebSocket with this subprotocol. UpgradeRefused, Unavailable."""
    key = base64.b64encode(os.urandom(16))
    headers = (
        ("Sec-WebSocket-Key", key.decode()),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", subprotocol),
    )
    link, answer = await upgrade(url, Upgrade("GET", "websocket", headers), ca_file)
    told = dict(answer)
    accepted = told.get("sec-websocket-accept") == generate_accept_token(key).decode()
    if not accepted or told.get("sec-websocket-protocol") != subprotocol:
        link.abort()
        raise UpgradeRefused(f"the runtime speaks no {subprotocol} in a WebSocket")
    return WebSocket(link)
