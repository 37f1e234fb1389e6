"""WebSocket messages over one connection (RFC 6455; frames: wsproto)."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence
from typing import NamedTuple

import wsproto.connection as ws
from wsproto import events
from wsproto.utilities import LocalProtocolError, generate_accept_token

from crib.streaming.head import BadRequest, HeadReader, RequestHead
from crib.streaming.link import Buffer, Link
from crib.wire import channel_messages

VERSION = "13"
TURN_EVENTS = 64
"""Frames after which others get their turn: an empty one costs some 50 us, and 100,000 may be there."""
_KEY_BYTES = 16
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_STATUS = 1000, 1001, 1002, 1005
"""Codes of a close frame (RFC 6455, section 7.4.1)."""
_TEXT, _BINARY = 1, 2
_FIN = 0x80


class Part(NamedTuple):
    """A piece of a message, not always all of it; `first` and `last` say whether it begins and ends one."""

    data: bytes
    first: bool
    last: bool


def check_handshake(head: RequestHead) -> str:
    """The client's key. BadRequest for what is no handshake of RFC 6455, section 4.2.1."""
    if head.method != "GET":
        raise BadRequest(405, "a WebSocket begins with GET", (("Allow", "GET"),))
    if head.values("sec-websocket-version") != (VERSION,):
        known = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION))
        raise BadRequest(426, f"WebSocket version {VERSION} is spoken here", known)
    keys = head.values("sec-websocket-key")
    try:
        good = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == _KEY_BYTES
    except ValueError:
        good = False
    if not good:
        raise BadRequest(400, "Sec-WebSocket-Key is not 16 bytes in base64")
    return keys[0]


def choose_protocol(
    head: RequestHead, known: Sequence[channel_messages.ChannelProtocol]
) -> channel_messages.ChannelProtocol:
    """The first one that the client offers and we know. BadRequest when there is none."""
    offered = head.values("sec-websocket-protocol")
    chosen = channel_messages.choose(offered, known)
    if chosen is None:
        names = ", ".join(filter(None, (each.name for each in known)))
        raise BadRequest(403, f"none of {', '.join(offered)[:500]} is spoken here, but {names}")
    return chosen


class WebSocket:
    """The server's side of one WebSocket. One task receives; any number may send."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._frames = ws.Connection(ws.ConnectionType.SERVER)
        self._events = self._frames.events()
        self._is_fresh = True
        self._turn = 0

    @classmethod
    def accept(cls, link: Link, http: HeadReader, key: str, subprotocol: str) -> WebSocket:
        """Answer the handshake. ConnectionError."""
        headers = [("Sec-WebSocket-Accept", generate_accept_token(key.encode()).decode())]
        if subprotocol:
            headers.append(("Sec-WebSocket-Protocol", subprotocol))
        http.switch("websocket", headers)
        return cls(link)

    async def part(self) -> Part | None:
        """What the client sends next; None when it has closed in order. ConnectionError when it has not."""
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
                    if event.code in (NORMAL, GOING_AWAY, NO_STATUS):
                        return None
                    raise ConnectionResetError(f"closed with code {int(event.code)}: {event.reason or ''}")
            data = await self._link.receive()
            if not data:
                raise ConnectionResetError("closed without a word")
            self._frames.receive_data(data)
            self._events = self._frames.events()

    @property
    def is_full(self) -> bool:
        """See Link."""
        return self._link.is_full

    def has_left(self) -> bool:
        """See Link."""
        return self._link.has_left()

    def put(self, data: Sequence[Buffer], *, text: bool = False) -> None:
        """Send one message without waiting. ConnectionError when the client has gone."""
        if self._frames.state is not ws.ConnectionState.OPEN:
            raise ConnectionResetError("the WebSocket is closed")
        # wsproto would copy the data four times.
        self._link.put([_head(_TEXT if text else _BINARY, sum(map(len, data))), *data])

    async def drain(self) -> None:
        """See Link."""
        await self._link.drain()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say goodbye; `part` then goes on to the client's own."""
        try:
            self._link.put(
                [self._frames.send(events.CloseConnection(code=code, reason=reason[:100] or None))]
            )
        except (LocalProtocolError, ConnectionError):
            pass  # it has closed before us, or has gone

    def _answer(self, event: events.Event) -> None:
        """Without waiting, or not at all: a reader that waits for the client to read can wait for ever."""
        if self._link.is_full:
            return
        try:
            self._link.put([self._frames.send(event)])
        except (LocalProtocolError, ConnectionError):
            pass  # both sides close at once


class Tunnel:
    """SPDY's bytes in binary messages (kubectl's port-forward since 1.30). See spdy.Bytes."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    @property
    def is_full(self) -> bool:
        return self._socket.is_full

    async def receive(self) -> bytes:
        while (part := await self._socket.part()) is not None:
            if part.data:
                return part.data
        return b""

    def put(self, data: Sequence[Buffer]) -> None:
        self._socket.put(data)

    async def drain(self) -> None:
        await self._socket.drain()

    def has_left(self) -> bool:
        return self._socket.has_left()


def _head(opcode: int, size: int) -> bytes:
    """Of a whole message in one frame, which a server does not mask (RFC 6455, section 5.2)."""
    if size < 126:
        return bytes((_FIN | opcode, size))
    if size < 1 << 16:
        return struct.pack(">BBH", _FIN | opcode, 126, size)
    return struct.pack(">BBQ", _FIN | opcode, 127, size)
