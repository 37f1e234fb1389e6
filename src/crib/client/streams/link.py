"""A connection to a runtime's streaming server, until the protocol of its streams is agreed on.

Source: RFC 9110, section 7.8 (Upgrade).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import h11

from crib.client.errors import RuntimeFailure, Unavailable
from crib.wire.spdy.reader import Buffer

READ_BYTES = 1 << 18
"""Held of a connection before its socket is read no more, about."""
UNSENT_BYTES = 1 << 18
"""Buffered for a runtime that does not read before its writers wait."""
CONNECT_TIME = 30.0
"""Seconds for the connection, TLS and the answer to the upgrade together."""
HEAD_BYTES = 16 << 10
"""Of the answer's head."""
REASON_BYTES = 4 << 10
"""Of the text with which an upgrade is refused."""

Headers = tuple[tuple[str, str], ...]


class UpgradeRefused(RuntimeFailure):
    """The runtime answered the upgrade with something else; its text is in the message."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What is asked for: `protocol` is the header Upgrade's value."""

    method: str
    protocol: str
    headers: Headers


class Link(asyncio.Protocol):
    """Bytes in and out after the upgrade. What came before the connection broke can still be read.

    asyncio's own StreamReader forgets that, and it may be the exit code: a runtime that closes while we still
    send (the command has ended and reads no more) makes the kernel break the connection.
    """

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._has_ended = False
        self._broken = ""
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(UNSENT_BYTES)

    def data_received(self, data: bytes) -> None:
        self._held += len(data)
        self._chunks.append(data)
        if self._held >= READ_BYTES:
            self._transport.pause_reading()
        self._readable.set()

    def eof_received(self) -> None:
        self._has_ended = True
        self._readable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._transport.get_extra_info("ssl_object") is None:
            self._read_rest(self._transport.get_extra_info("socket").fileno())
        self._broken = str(exc) if exc else "the connection is closed"
        self._has_ended = True
        self._readable.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def push_back(self, data: bytes) -> None:
        """Bytes that came behind the head: the next `receive` gives them."""
        if data:
            self._chunks.appendleft(data)
            self._held += len(data)

    async def receive(self) -> bytes:
        """Some bytes; empty at the end. ConnectionError when the connection is broken."""
        while not self._chunks:
            if self._broken:
                raise ConnectionResetError(self._broken)
            if self._has_ended:
                return b""
            self._readable.clear()
            await self._readable.wait()
        data = self._chunks.popleft()
        if self._held >= READ_BYTES > self._held - len(data) and not self._has_ended:
            self._transport.resume_reading()
        self._held -= len(data)
        return data

    def put(self, data: Sequence[Buffer]) -> None:
        """Buffer bytes for the runtime. ConnectionError when it is gone."""
        if self._transport.is_closing():
            raise ConnectionResetError(self._broken or "the connection is closed")
        self._transport.write(data[0] if len(data) == 1 else b"".join(data))

    @property
    def is_full(self) -> bool:
        """So much is buffered that nothing should be added without `drain`."""
        return not self._writable.is_set()

    async def drain(self) -> None:
        """Returns when the runtime has room for more. ConnectionError when it is gone."""
        await self._writable.wait()
        if self._broken:
            raise ConnectionResetError(self._broken)

    def abort(self) -> None:
        """Close without sending what is buffered."""
        self._transport.abort()

    def _read_rest(self, descriptor: int) -> None:
        """What the kernel still has after a write failed; it is no more than a socket's buffer."""
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, READ_BYTES):
                self._chunks.append(data)


async def upgrade(url: str, wanted: Upgrade, ca_file: str = "") -> tuple[Link, Headers]:
    """Connect and switch protocols; the headers of the answer. UpgradeRefused, Unavailable.

    With TLS, the runtime's certificate must be signed by an authority in `ca_file` (PEM), or without one by
    an authority that this system trusts. Only for a connection that does not leave this node, and without a
    `ca_file`, any certificate will do: runtimes sign their own, and the URL came through their socket.
    """
    parts = urlsplit(url)
    link = None
    try:
        async with asyncio.timeout(CONNECT_TIME):
            link = await _connect(parts, ca_file)
            return link, await _switch(link, parts, wanted)
    except BaseException as error:
        if link is not None:
            link.abort()
        if isinstance(error, TimeoutError):
            raise Unavailable(f"streams at {parts.netloc}: no answer within {CONNECT_TIME:g} s") from error
        if isinstance(error, OSError | ValueError):
            raise Unavailable(f"streams at {parts.netloc}: {_words(error)}") from error
        raise


def _words(error: Exception) -> str:
    """asyncio's own words for a connection that failed name the call, not the reason."""
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    return str(error)


async def _connect(parts: SplitResult, ca_file: str) -> Link:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RuntimeFailure(f"the runtime's streams are at {parts.scheme}://{parts.netloc}: this is no URL")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = await _dial(parts.hostname, port)
    try:
        context = _context(connection, ca_file) if parts.scheme == "https" else None
        name = parts.hostname if context else None
        _, link = await asyncio.get_running_loop().create_connection(
            Link, sock=connection, ssl=context, server_hostname=name
        )
    except BaseException:
        connection.close()
        raise
    return link


async def _dial(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        try:
            await loop.sock_connect(connection, address)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure


def _context(connection: socket.socket, ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    if not ca_file and stays_here(connection.getsockname()[0], connection.getpeername()[0]):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def stays_here(own: str, peer: str) -> bool:
    """Whether a connection between these addresses is one of a node with itself."""
    return own == peer or ipaddress.ip_address(peer.partition("%")[0]).is_loopback


async def _switch(link: Link, parts: SplitResult, wanted: Upgrade) -> Headers:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    headers = [
        ("Host", parts.netloc.rpartition("@")[2]),
        ("Connection", "Upgrade"),
        ("Upgrade", wanted.protocol),
        ("User-Agent", "crib"),
        *wanted.headers,
    ]
    request = h11.Request(method=wanted.method, target=target, headers=headers)
    link.put([http.send(request) or b"", http.send(h11.EndOfMessage()) or b""])
    answer: h11.Response | None = None
    text = b""
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError as error:
            raise RuntimeFailure(f"streams at {parts.netloc}: the answer is no HTTP: {error}") from error
        if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
            link.push_back(bytes(http.trailing_data[0]))
            return _told(event.headers)
        if isinstance(event, h11.Response):
            answer = event
        elif isinstance(event, h11.Data):
            text += event.data
        elif event is h11.NEED_DATA:
            data = await link.receive()
            if not data and answer is None:
                raise Unavailable(f"streams at {parts.netloc}: the connection was closed without an answer")
            http.receive_data(data)
        is_over = isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or len(text) > REASON_BYTES
        if answer is not None and is_over:
            raise UpgradeRefused(_reason(answer, text, wanted.protocol))


def _told(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def _reason(answer: h11.Response, text: bytes, protocol: str) -> str:
    words = text[:REASON_BYTES].decode("utf-8", "replace").strip() or bytes(answer.reason).decode("latin-1")
    return f"the runtime refused {protocol} with {answer.status_code}: {words}"
