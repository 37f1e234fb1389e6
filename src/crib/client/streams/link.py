"""A connection to a runtime's streaming server, until SPDY or WebSocket is agreed on.

Source: RFC 9110, section 7.8 (Upgrade); RFC 6455, section 4.1 (WebSocket).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import h11

from crib.client.errors import RuntimeFailure, Unavailable
from crib.tunnel.link import Link
from crib.tunnel.websocket import VERSION, WebSocket, accept_token
from crib.wire import remotecommand

READ_BYTES = 256 << 10
"""Bytes of one read(2) of what remains when a connection breaks."""
CONNECT_TIME = 30.0
"""Seconds for the connection, TLS and the answer to the upgrade together."""
HEAD_BYTES = 16 << 10
"""Maximum bytes of the answer's head."""
REASON_BYTES = 4 << 10
"""Maximum bytes of the text of a refused upgrade."""

Headers = tuple[tuple[str, str], ...]


class UpgradeRefused(RuntimeFailure):
    """The runtime answered the upgrade with something else; its text is in the message."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What is requested: `protocol` is the value of the header Upgrade."""

    method: str
    protocol: str
    headers: Headers


class RuntimeLink(Link):
    """Bytes in and out after the upgrade. It closes when the runtime does."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and self._transport.get_extra_info("ssl_object") is None:
            self._read_rest(self._transport.get_extra_info("socket").fileno())
        super().connection_lost(error)

    def _read_rest(self, descriptor: int) -> None:
        """What the kernel still has after a write failed; it is no more than a socket's buffer."""
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, READ_BYTES):
                self._inbox.feed(data)


async def connect_spdy(url: str, protocols: Sequence[str], ca_file: str = "") -> Link:
    """A connection that speaks SPDY with one of these versions of what goes over it. UpgradeRefused."""
    offered = tuple((remotecommand.PROTOCOL_HEADER, name) for name in protocols)
    link, answer = await upgrade(url, Upgrade("POST", remotecommand.SPDY_UPGRADE, offered), ca_file)
    name = remotecommand.PROTOCOL_HEADER.lower()
    chosen = [value for key, value in answer if key == name]
    if not set(chosen) & set(protocols):
        link.abort()
        raise UpgradeRefused(f"the runtime speaks {', '.join(chosen) or 'no version'}, not {protocols[0]}")
    return link


async def connect_websocket(url: str, subprotocol: str, ca_file: str = "") -> WebSocket:
    """A WebSocket with this subprotocol. UpgradeRefused, Unavailable."""
    key = base64.b64encode(os.urandom(16)).decode()
    headers = (
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", VERSION),
        ("Sec-WebSocket-Protocol", subprotocol),
    )
    link, answer = await upgrade(url, Upgrade("GET", "websocket", headers), ca_file)
    told = dict(answer)
    accepted = told.get("sec-websocket-accept") == accept_token(key)
    if not accepted or told.get("sec-websocket-protocol") != subprotocol:
        link.abort()
        raise UpgradeRefused(f"the runtime speaks no {subprotocol} in a WebSocket")
    return WebSocket(link, "client")


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
        raise RuntimeFailure(
            f"the runtime's streams are at {parts.scheme}://{parts.netloc}: this is not a URL"
        )
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = await _dial(parts.hostname, port)
    try:
        context = _context(connection, ca_file) if parts.scheme == "https" else None
        name = parts.hostname if context else None
        _, link = await asyncio.get_running_loop().create_connection(
            RuntimeLink, sock=connection, ssl=context, server_hostname=name
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
            raise RuntimeFailure(f"streams at {parts.netloc}: the answer is not HTTP: {error}") from error
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
