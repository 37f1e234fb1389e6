"""Raw clients: what a test sends is what goes over the socket, and nothing more."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import wsproto
from wsproto import events as ws_events

from crib.wire import channel_messages as messages
from crib.wire import portforward, remotecommand, spdy

BOUND = 60.0


class Refused(Exception):
    """The answer was not 101; `status`, `headers` (lower case) and `body` are its."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"{status} {body.decode()}")
        self.status, self.headers, self.body = status, headers, body


class Wire:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, url: str, context: ssl.SSLContext | None = None, limit: int = 1 << 16) -> Wire:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, ssl=context, limit=limit))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self) -> bytes:
        async with asyncio.timeout(BOUND):
            return await self.reader.read(1 << 20)

    async def read_to_end(self) -> bytes:
        """Until the server closes, or breaks off."""
        found = b""
        try:
            while data := await self.read():
                found += data
        except ConnectionError:
            pass
        return found

    def close(self) -> None:
        self.writer.transport.abort()

    def reset(self) -> None:
        """As the kernel does for a process that ends with unread input."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()


def head(url: str, upgrade: str = "SPDY/3.1", *more: str, method: str = "POST") -> bytes:
    """A request for an upgrade."""
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade"]
    return "\r\n".join([*lines, f"Upgrade: {upgrade}", *more, "", ""]).encode()


def split_answer(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and the rest."""
    first, _, rest = answer.partition(b"\r\n\r\n")
    status, *lines = first.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    headers = {name.lower(): value for name, value in pairs}
    return int(status.split(" ")[1]), headers, rest


async def ask(wire: Wire, request: bytes) -> tuple[dict[str, str], bytes]:
    """The headers of a 101, and what came behind it. Refused."""
    await wire.send(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = await wire.read()
        if not data:
            raise ConnectionResetError(f"closed after {answer!r}")
        answer += data
    status, headers, rest = split_answer(answer)
    if status != 101:
        raise Refused(status, headers, rest + await wire.read_to_end())
    return headers, rest


class SpdyClient:
    """SPDY as Go's clients speak it: without windows."""

    def __init__(self, wire: Any, answer: dict[str, str], rest: bytes = b"") -> None:
        self.wire = wire
        self.answer = answer
        self.spdy = spdy.Connection("client", spdy.Limits())
        self.got: dict[int, bytearray] = defaultdict(bytearray)
        self.replied: set[int] = set()
        self.ended: set[int] = set()
        self.reset: dict[int, int] = {}
        self.seen: list[spdy.Event] = []
        self.over = False
        self._take(rest)

    @classmethod
    async def connect(cls, url: str, *protocols: str, context: ssl.SSLContext | None = None) -> SpdyClient:
        wire = await Wire.to(url, context)
        lines = [f"X-Stream-Protocol-Version: {name}" for name in protocols]
        try:
            return cls(wire, *await ask(wire, head(url, "SPDY/3.1", *lines)))
        except BaseException:
            wire.close()
            raise

    async def open(self, *headers: tuple[str, str], fin: bool = False) -> int:
        stream = self.spdy.open_stream(headers, fin=fin)
        await self.flush()
        return stream

    async def accepted(self, *headers: tuple[str, str]) -> int:
        """Opened, and the server has answered."""
        stream = await self.open(*headers)
        await self.until(lambda: stream in self.replied)
        return stream

    async def terminal(self, *kinds: str) -> dict[str, int]:
        """The streams of an exec, in the order in which Go's clients open them."""
        return {kind: await self.accepted(("streamtype", kind)) for kind in ("error", *kinds)}

    async def pair(self, port: int | str, request_id: str) -> tuple[int, int]:
        """Data and error stream of a forwarded connection."""
        both = (portforward.StreamKind.ERROR, portforward.StreamKind.DATA)
        target = portforward.decode_target(str(port))
        error, data = [await self.accepted(*portforward.stream_headers(k, target, request_id)) for k in both]
        return data, error

    async def send(self, stream: int, data: bytes = b"", *, fin: bool = False) -> None:
        self.spdy.send_data(stream, data, fin=fin)
        await self.flush()

    async def flush(self) -> None:
        await self.wire.send(b"".join(self.spdy.data_to_send()))

    async def until(self, condition: Callable[[], object]) -> None:
        """Read until it is so, or the connection ends."""
        while not condition():
            data = await self.wire.read()
            assert data, "the server has closed"
            self._take(data)

    async def to_end(self) -> None:
        try:
            while data := await self.wire.read():
                self._take(data)
        except ConnectionError:
            pass

    async def outcome(self, streams: dict[str, int], *, has_status: bool = True) -> remotecommand.Outcome:
        """Once all output and the outcome have ended; that is the order in which they do."""
        outputs = {streams[kind] for kind in ("stdout", "stderr") if kind in streams}
        await self.until(lambda: streams["error"] in self.ended)
        assert outputs <= self.ended, "the outcome came before the output's end"
        return remotecommand.decode_outcome(bytes(self.got[streams["error"]]), has_status=has_status)

    def close(self) -> None:
        self.wire.close()

    def _take(self, data: bytes) -> None:
        for event in self.spdy.receive(data):
            self.seen.append(event)
            match event:
                case spdy.StreamReplied():
                    self.replied.add(event.stream_id)
                case spdy.DataReceived():
                    self.got[event.stream_id] += event.data
                    self.spdy.acknowledge(event.stream_id, len(event.data))
                    if event.fin:
                        self.ended.add(event.stream_id)
                case spdy.StreamReset():
                    self.reset[event.stream_id] = event.status
                case spdy.SessionFailed():
                    raise AssertionError(event.reason)


class WsClient:
    """A WebSocket's client."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.subprotocol: str | None = None
        self.raw: list[bytes] = []
        """Whole messages, as bytes."""
        self.close_code: int | None = None
        self.pongs: list[bytes] = []
        self.accepted = False
        self._held = b""

    @classmethod
    async def connect(
        cls, url: str, protocols: Iterable[str] = (), context: ssl.SSLContext | None = None
    ) -> WsClient:
        parts = urlsplit(url)
        client = cls(await Wire.to(url, context))
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        request = ws_events.Request(host=parts.netloc, target=target, subprotocols=list(protocols))
        await client.emit(request)
        try:
            await client.until(lambda: client.accepted)
        except BaseException:
            client.close()
            raise
        return client

    async def emit(self, event: ws_events.Event) -> None:
        await self.wire.send(self.ws.send(event))

    async def message(self, data: bytes, *, finished: bool = True) -> None:
        await self.emit(ws_events.BytesMessage(data, message_finished=finished))

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            data = await self.wire.read()
            assert data, "the server has closed"
            await self._take(data)

    async def to_end(self) -> None:
        """Until the server has closed; our goodbye goes out with its."""
        try:
            while data := await self.wire.read():
                await self._take(data)
        except ConnectionError:
            pass

    def channel(self, number: int) -> bytes:
        """All that came on a channel."""
        return b"".join(data[1:] for data in self.raw if data[0] == number)

    def text_channel(self, number: int) -> bytes:
        """The same of a base64 protocol."""
        found = [messages.decode_message(messages.BASE64, data) for data in self.raw]
        return b"".join(one.data for one in found if one is not None and one.channel == number)

    def close(self) -> None:
        self.wire.close()

    async def _take(self, data: bytes) -> None:
        self.ws.receive_data(data)
        for event in self.ws.events():
            match event:
                case ws_events.AcceptConnection():
                    self.accepted, self.subprotocol = True, event.subprotocol
                case ws_events.RejectConnection():
                    raise Refused(event.status_code, {}, b"")
                case ws_events.Message():
                    part = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                    self._held += part
                    if event.message_finished:
                        self.raw.append(self._held)
                        self._held = b""
                case ws_events.Pong():
                    self.pongs.append(bytes(event.payload))
                case ws_events.CloseConnection():
                    self.close_code = int(event.code)
                    if self.ws.state is not wsproto.connection.ConnectionState.CLOSED:
                        await self.emit(event.response())


class TunnelWire:
    """SPDY's bytes in a WebSocket's messages."""

    def __init__(self, client: WsClient) -> None:
        self.client = client

    async def send(self, data: bytes) -> None:
        if data:
            await self.client.message(data)

    async def read(self) -> bytes:
        await self.client.until(lambda: self.client.raw or self.client.close_code is not None)
        return self.client.raw.pop(0) if self.client.raw else b""

    def close(self) -> None:
        self.client.close()


def blind() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
