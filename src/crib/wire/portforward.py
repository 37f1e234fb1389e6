"""Forwarded connections: what the streams of SPDY and the channels of a WebSocket carry.

Source: k8s.io/cri-streaming (portforward) and client-go (tools/portforward). Over SPDY the client opens two
streams for each connection, `error` and `data`, with the same `port` and `requestid`. The data stream carries
the connection, text on the error stream says what went wrong. In a WebSocket each port has two channels from
the start, on which the server first sends the port. Since Kubernetes 1.30 clients put the whole SPDY session
into a WebSocket's binary messages (the tunnel).

crib's own extensions: `port` can name something else in the pod (`decode_target`). UDP is forwarded as
datagrams on a stream: the length in 2 bytes, big-endian, then the payload.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from urllib.parse import parse_qs

from crib.wire import channel_messages
from crib.wire.remotecommand import MalformedRequest
from crib.wire.spdy.headers import Headers, first

PROTOCOL = "portforward.k8s.io"
"""In the HTTP header X-Stream-Protocol-Version."""
TUNNEL_PROTOCOL = f"SPDY/3.1+{PROTOCOL}"
"""The WebSocket subprotocol of a SPDY session in binary messages."""
WEBSOCKET_PROTOCOLS = (channel_messages.UNNAMED, channel_messages.V4, channel_messages.V4_BASE64)
STREAM_TYPE = "streamtype"
PORT = "port"
REQUEST_ID = "requestid"
MAX_PORT = 65535
MAX_PORTS = 40
"""Of one WebSocket: each has two channels, and the highest channel is 79."""
MAX_QUERY = 16 << 10
"""Bytes of a query with ports."""
MAX_REQUEST_ID = 64
MAX_HALVES = 1000
"""Streams of a session that wait for their other half."""
PAIR_SECONDS = 30.0
"""How long they wait."""
MAX_PATH = 4096
"""Bytes of a unix socket's path, as of any (PATH_MAX)."""
_TARGET = re.compile(
    r"(?:tcp:)?(?P<tcp>[0-9]{1,5})|udp:(?P<udp>[0-9]{1,5})|unix:(?P<container>[^:/\0]{1,253}):(?P<path>/[^\0]*)"
)


class StreamKind(StrEnum):
    """Values of the header `streamtype`."""

    ERROR = "error"
    DATA = "data"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection goes: a port of the pod, or a unix socket in one of its containers.

    As text: `80` (or `tcp:80`), `udp:53`, `unix:CONTAINER:/path`.
    """

    kind: Literal["tcp", "udp", "unix"]
    port: int = 0
    container: str = ""
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.container}:{self.path}"
        return str(self.port) if self.kind == "tcp" else f"udp:{self.port}"


@dataclass(frozen=True, slots=True)
class ForwardStream:
    """A stream that the client opened."""

    stream_id: int
    kind: StreamKind
    target: Target
    request_id: str


@dataclass(frozen=True, slots=True)
class ForwardPair:
    """The two streams of one connection."""

    target: Target
    data_stream: int
    error_stream: int


def decode_target(text: str) -> Target:
    """What a connection is to go to; MalformedRequest."""
    found = _TARGET.fullmatch(text)
    if found is None or len(text) > MAX_PATH:
        raise MalformedRequest(f"{text[:100]!r} names no port, udp:PORT or unix:CONTAINER:/PATH")
    if found["container"]:
        return Target("unix", container=found["container"], path=found["path"])
    port = int(found["tcp"] or found["udp"])
    if not 0 < port <= MAX_PORT:
        raise MalformedRequest(f"{text!r} names no port: they go from 1 to {MAX_PORT}")
    return Target("tcp" if found["tcp"] else "udp", port)


def stream_headers(kind: StreamKind, target: Target | int, request_id: str) -> Headers:
    """What a client opens a stream with."""
    # Headers are Latin-1, paths are any bytes.
    port = str(target).encode("utf-8", "surrogateescape").decode("latin-1")
    return ((STREAM_TYPE, kind), (PORT, port), (REQUEST_ID, request_id))


def decode_stream(stream_id: int, headers: Headers) -> ForwardStream:
    """What a stream is for; MalformedRequest.

    Old clients send no request id, but always the error stream first, and the data stream right after it.
    """
    text = first(headers, STREAM_TYPE) or ""
    try:
        kind = StreamKind(text)
    except ValueError:
        raise MalformedRequest(f"there are no streams of type {text[:100]!r}") from None
    port = (first(headers, PORT) or "").encode("latin-1").decode("utf-8", "surrogateescape")
    default = stream_id if kind is StreamKind.ERROR else stream_id - 2
    request_id = first(headers, REQUEST_ID) or str(default)
    if len(request_id) > MAX_REQUEST_ID:
        raise MalformedRequest(f"request id of {len(request_id)} bytes, at most {MAX_REQUEST_ID} are taken")
    return ForwardStream(stream_id, kind, decode_target(port), request_id)


class Pairing:
    """Joins the two streams of each connection, in whichever order they come. Times are of any clock, in
    seconds."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[ForwardStream, float]] = {}

    def add(self, stream: ForwardStream, now: float) -> ForwardPair | None:
        """The pair that is whole with this stream; MalformedRequest for one that does not fit."""
        found = self._waiting.get(stream.request_id)
        if found is None:
            if len(self._waiting) >= MAX_HALVES:
                raise MalformedRequest(f"{MAX_HALVES} streams wait for their other half")
            self._waiting[stream.request_id] = stream, now + PAIR_SECONDS
            return None
        other = found[0]
        if other.kind is stream.kind:
            raise MalformedRequest(f"request {stream.request_id!r} has its {stream.kind} stream already")
        if other.target != stream.target:
            raise MalformedRequest(
                f"streams of request {stream.request_id!r} are for {other.target} and {stream.target}"
            )
        del self._waiting[stream.request_id]
        data, error = (stream, other) if stream.kind is StreamKind.DATA else (other, stream)
        return ForwardPair(stream.target, data.stream_id, error.stream_id)

    def drop(self, stream_id: int) -> None:
        """A stream was reset; nothing if it does not wait."""
        for request_id, (stream, _) in self._waiting.items():
            if stream.stream_id == stream_id:
                del self._waiting[request_id]
                return

    def next_expiry(self) -> float | None:
        """When `expire` has something to do; None when nothing waits."""
        return next((until for _, until in self._waiting.values()), None)

    def expire(self, now: float) -> list[ForwardStream]:
        """Those that have waited too long, and do no more."""
        late = [stream for stream, until in self._waiting.values() if until <= now]
        for stream in late:
            del self._waiting[stream.request_id]
        return late


def decode_ports(query: str) -> tuple[int, ...]:
    """The ports in a WebSocket's query (`port=80&port=443,8080`), in order; MalformedRequest."""
    if len(query) > MAX_QUERY:
        raise MalformedRequest(f"query of {len(query)} bytes, at most {MAX_QUERY} are taken")
    values = parse_qs(query, keep_blank_values=True).get(PORT, [])
    ports = tuple(_port(text) for value in values for text in value.split(","))
    if not 0 < len(ports) <= MAX_PORTS:
        raise MalformedRequest(f"{len(ports)} ports are named, 1 to {MAX_PORTS} have to be")
    return ports


def data_channel(index: int) -> int:
    """The channel for the data of a WebSocket's port, the first being 0."""
    return 2 * index


def error_channel(index: int) -> int:
    """The channel for words on what went wrong with it."""
    return 2 * index + 1


def encode_port(port: int) -> bytes:
    """The first data on both channels of a port: little-endian, unlike the rest of the network."""
    return port.to_bytes(2, "little")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) <= MAX_PORT):
        raise MalformedRequest(f"{text[:100]!r} is not a port")
    return int(text)


MAX_DATAGRAM = 65507
"""Bytes of a UDP payload at most (RFC 768 over IPv4)."""
_DATAGRAM_HEAD = 2


def encode_datagram(payload: bytes) -> bytes:
    """The frame of one datagram, which may be empty; ValueError when it is longer than UDP carries."""
    if len(payload) > MAX_DATAGRAM:
        raise ValueError(f"a datagram of {len(payload)} bytes is longer than {MAX_DATAGRAM}")
    return len(payload).to_bytes(_DATAGRAM_HEAD, "big") + payload


class DatagramReader:
    """Bytes in, whole datagrams out; holds one unfinished frame at most."""

    def __init__(self) -> None:
        self._rest = b""

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Payloads that `data` completes. ValueError for a length that UDP does not have: nothing follows."""
        held = self._rest + data
        at = 0
        try:
            while len(held) - at >= _DATAGRAM_HEAD:
                length = int.from_bytes(held[at : at + _DATAGRAM_HEAD], "big")
                if length > MAX_DATAGRAM:
                    raise ValueError(f"a datagram of {length} bytes is longer than {MAX_DATAGRAM}")
                end = at + _DATAGRAM_HEAD + length
                if len(held) < end:
                    break
                payload, at = held[at + _DATAGRAM_HEAD : end], end
                yield payload
        finally:
            self._rest = held[at:]
