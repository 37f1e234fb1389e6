"""Floods of bytes through a runtime's streams, at the lowest possible cost of our own.

After the upgrade a thread reads and writes the socket with plain system calls. It counts incoming frames
without looking at their bytes, and outgoing data is prepared beforehand. So the bench measures the runtime,
the kernel and the command. Formats: `crib.wire.spdy`, and RFC 6455, section 5.2.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from crib.client import ClientError
from crib.client.errors import RuntimeFailure, Unavailable
from crib.wire import portforward, spdy
from crib.wire.channel_messages import V5
from crib.wire.portforward import StreamKind, Target
from crib.wire.remotecommand import (
    CHANNELS,
    PROTOCOL_HEADER,
    SPDY_PROTOCOLS,
    SPDY_UPGRADE,
    Exited,
    StreamType,
    decode_outcome,
    stream_headers,
)
from crib.wire.spdy.frames import FIN, FRAME_HEADER, MAX_ID, FrameType, control_type, data_header, read_header

_Name = TypeVar("_Name", bound=str)
READ_BYTES = 1 << 20
"""Maximum bytes of one recv(2)."""
FRAME_BYTES = 32 << 10
"""Bytes of one frame that we send: the size of kubectl's copy buffer."""
FRAMES_AT_ONCE = 32
"""Bytes that are passed to one send(2)."""
LIMIT = 60
"""Seconds without a byte after which a flood has failed."""
HEAD_BYTES = 16 << 10
MAX_WORDS = 64 << 10
"""Bytes that are kept of an outcome."""
_MASKED = 0x80
_OUT_OF_BAND = -1


@dataclass(slots=True)
class Counted:
    """What came, by stream: SPDY's id, or the channel of a WebSocket."""

    sizes: dict[int, int] = field(default_factory=dict)
    kept: dict[int, bytearray] = field(default_factory=dict)
    """Streams whose bytes are wanted."""
    replied: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)


class Counter(ABC):
    """Bytes that come, cut anywhere, to counts."""

    def __init__(self) -> None:
        self.counted = Counted()
        self._head = b""
        self._stream = _OUT_OF_BAND
        self._left = 0
        self._ends = False

    def feed(self, data: memoryview) -> None:
        """Bytes that came. RuntimeFailure for what should not."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                size = min(self._left, end - at)
                self._take(data[at : at + size])
            else:
                size = min(self._missing(), end - at)
                self._head += data[at : at + size]
                if not self._missing():
                    self._stream, self._left, self._ends = self._begin(self._head)
                    self._head = b""
                    if not self._left:
                        self._end()
            at += size

    @abstractmethod
    def _begin(self, head: bytes) -> tuple[int, int, bool]:
        """A frame's stream, the number of bytes that follow, and whether the stream ends with them."""

    @abstractmethod
    def _head_size(self, head: bytes) -> int:
        """Bytes of a frame's head, as far as its beginning tells."""

    def _missing(self) -> int:
        return self._head_size(self._head) - len(self._head)

    def _take(self, data: memoryview) -> None:
        counted, stream = self.counted, self._stream
        counted.sizes[stream] = counted.sizes.get(stream, 0) + len(data)
        if stream in counted.kept:
            counted.kept[stream] += data[: MAX_WORDS - len(counted.kept[stream])]
        self._left -= len(data)
        if not self._left:
            self._end()

    def _end(self) -> None:
        if self._ends:
            self.counted.ended.add(self._stream)


class SpdyCounter(Counter):
    """SPDY's frames. Of control frames only SYN_REPLY and RST_STREAM mean something here."""

    def _head_size(self, head: bytes) -> int:
        if len(head) < FRAME_HEADER:
            return FRAME_HEADER
        kind = control_type(struct.unpack_from(">I", head)[0])
        has_id = kind is not None and kind[1] in (FrameType.SYN_REPLY, FrameType.RST_STREAM)
        return FRAME_HEADER + 4 if has_id else FRAME_HEADER

    def _begin(self, head: bytes) -> tuple[int, int, bool]:
        first, flags, length = read_header(head)
        kind = control_type(first)
        if kind is None:
            return first, length, bool(flags & FIN)
        if len(head) > FRAME_HEADER:
            stream = struct.unpack_from(">I", head, FRAME_HEADER)[0] & MAX_ID
            of = self.counted.replied if kind[1] == FrameType.SYN_REPLY else self.counted.ended
            of.add(stream)
            length -= 4
        return _OUT_OF_BAND, length, False


class ChannelCounter(Counter):
    """Messages of a WebSocket whose first byte is their channel; a close frame ends every channel."""

    def _head_size(self, head: bytes) -> int:
        if len(head) < 2:
            return 2
        size = 2 + {126: 2, 127: 8}.get(head[1], 0)
        return size + 1 if head[0] & 0x0F == 2 and head[1] else size

    def _begin(self, head: bytes) -> tuple[int, int, bool]:
        opcode, length = head[0] & 0x0F, head[1]
        if length >= 126:
            length = int.from_bytes(head[2 : 4 if length == 126 else 10])
        if opcode == 0:
            return self._stream, length, False
        if opcode == 2 and length:
            return head[-1], length - 1, False
        if opcode == 8:
            self.counted.ended.update(range(len(CHANNELS)))
        return _OUT_OF_BAND, length, False


class Flood:
    """One connection, from its upgrade to its end. Used by one thread; `abort` may come from another."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.counted = counter.counted
        self._socket = socket.socket(socket.AF_INET)
        self._buffer = bytearray(READ_BYTES)

    def connect(self, url: str, request: str, headers: Mapping[str, str]) -> None:
        """Switch protocols; `request` is the method. Unavailable, RuntimeFailure."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise RuntimeFailure(f"floods are measured over http, and the streams are at {parts.scheme}")
        if ":" in parts.hostname:
            self._socket.close()
            self._socket = socket.socket(socket.AF_INET6)
        # not Python's time-out: that makes two system calls of each
        limit = struct.pack("ll", LIMIT, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, limit)
        self._socket.connect((parts.hostname, parts.port or 80))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        lines = [f"{request} {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES:
            head += self._receive()
        first, _, rest = head.partition(b"\r\n\r\n")
        if first.split(maxsplit=2)[1:2] != [b"101"]:
            raise RuntimeFailure(f"the runtime refused the upgrade: {head[:200].decode('latin-1')}")
        self._counter.feed(memoryview(rest))

    def send(self, data: bytes | memoryview) -> None:
        """All of it."""
        self._socket.sendall(data)

    def until(self, condition: Callable[[], object]) -> None:
        """Count what comes until it is so. Unavailable when it can become so no more."""
        while not condition():
            self._counter.feed(self._receive())

    def _receive(self) -> memoryview:
        size = self._socket.recv_into(self._buffer)
        if not size:
            raise Unavailable("the runtime closed the connection")
        return memoryview(self._buffer)[:size]

    def abort(self) -> None:
        """What waits for the connection ends. Safe to repeat."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """At the end."""
        self._socket.close()

    def check_outcome(self, stream: int) -> None:
        """RuntimeFailure when the command did not end well."""
        told = bytes(self.counted.kept[stream])
        outcome = decode_outcome(told, has_status=True)
        if not told or outcome != Exited(0):
            raise RuntimeFailure(f"the command of a flood failed: {outcome}")


def _open_spdy(
    flood: Flood, url: str, protocol: str, wanted: Mapping[_Name, spdy.Headers], keep: Collection[_Name] = ()
) -> dict[_Name, int]:
    """The ids of the streams, which the runtime has accepted.

    What comes on those to `keep` is kept from the first byte: it may come together with the acceptance.
    """
    flood.connect(url, "POST", {"Upgrade": SPDY_UPGRADE, PROTOCOL_HEADER: protocol})
    session = spdy.Connection("client", spdy.Limits())
    ids = {name: session.open_stream(headers) for name, headers in wanted.items()}
    flood.counted.kept.update({ids[name]: bytearray() for name in keep})
    flood.send(b"".join(session.data_to_send()))
    flood.until(lambda: flood.counted.replied >= set(ids.values()))
    return ids


def _open_websocket(flood: Flood, url: str) -> None:
    headers = {
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": V5.name,
    }
    flood.connect(url, "GET", headers)


def _message(channel: bytes, data: bytes) -> bytes:
    """A client's message below 64 KiB whose mask is zero, which changes no byte (RFC 6455, section 5.3)."""
    size = len(channel) + len(data)
    head = struct.pack(">BB", 0x82, _MASKED | size) if size < 126 else struct.pack(">BBH", 0x82, 0xFE, size)
    return head + bytes(4) + channel + data


def _send_all(flood: Flood, frame: bytes, size: int) -> None:
    """`size` bytes in frames of FRAME_BYTES."""
    count = size // FRAME_BYTES
    many = frame * FRAMES_AT_ONCE
    for _ in range(count // FRAMES_AT_ONCE):
        flood.send(many)
    flood.send(frame * (count % FRAMES_AT_ONCE))


@dataclass(frozen=True, slots=True)
class ExecFlood:
    """`size` bytes out of a command (its stdout) or into it (its stdin), and its outcome.

    The command must be asked for with stdout, and to be flooded with stdin too. SPDY, or a WebSocket of
    version 5.
    """

    transport: str
    size: int
    inwards: bool = False
    says: bytes = b""
    """What a command that is flooded must say."""

    def __call__(self, url: str, flood: Flood) -> float:
        """Seconds from open streams to the outcome."""
        data = StreamType.STDIN if self.inwards else StreamType.STDOUT
        keep = (StreamType.ERROR, StreamType.STDOUT) if self.inwards else (StreamType.ERROR,)
        if self.transport == "spdy":
            kinds = dict.fromkeys((StreamType.ERROR, data, StreamType.STDOUT))
            wanted = {kind: stream_headers(kind) for kind in kinds}
            ids = _open_spdy(flood, url, SPDY_PROTOCOLS[0].name, wanted, keep)
            error, stream, stdout = (ids[kind] for kind in (StreamType.ERROR, data, StreamType.STDOUT))
            frame = data_header(stream, FRAME_BYTES, False) + bytes(FRAME_BYTES)
            end = data_header(stream, 0, True)
        else:
            flood.counted.kept.update({CHANNELS.index(kind): bytearray() for kind in keep})
            _open_websocket(flood, url)
            error, stream, stdout = (
                CHANNELS.index(kind) for kind in (StreamType.ERROR, data, StreamType.STDOUT)
            )
            frame, end = _message(bytes([stream]), bytes(FRAME_BYTES)), _message(bytes([255, stream]), b"")
        began = time.perf_counter()
        if self.inwards:
            _send_all(flood, frame, self.size)
            flood.send(end)
        flood.until(lambda: error in flood.counted.ended)
        took = time.perf_counter() - began
        flood.check_outcome(error)
        if not self.inwards:
            _check_size(flood, stdout, self.size)
        elif (said := bytes(flood.counted.kept[stdout])).strip() != self.says:
            raise RuntimeFailure(f"a flooded command says {said!r}, not {self.says!r}")
        return took


@dataclass(frozen=True, slots=True)
class PortFlood:
    """`size` bytes from what listens at a port and ends after them, over SPDY."""

    port: int
    size: int

    def __call__(self, url: str, flood: Flood) -> float:
        """Seconds from open streams to the end of the data."""
        target = Target("tcp", self.port)
        wanted = {kind: portforward.stream_headers(kind, target, "0") for kind in StreamKind}
        ids = _open_spdy(flood, url, portforward.PROTOCOL, wanted)
        began = time.perf_counter()
        flood.until(lambda: ids[StreamKind.DATA] in flood.counted.ended)
        took = time.perf_counter() - began
        _check_size(flood, ids[StreamKind.DATA], self.size)
        return took


def _check_size(flood: Flood, stream: int, size: int) -> None:
    came = flood.counted.sizes.get(stream, 0)
    if came != size:
        raise RuntimeFailure(f"{came} of {size} bytes came")


async def run(url: str, work: ExecFlood | PortFlood) -> float:
    """Seconds of one flood; ClientError. Leaves no thread when cancelled."""
    flood = Flood(SpdyCounter() if getattr(work, "transport", "spdy") == "spdy" else ChannelCounter())
    running = asyncio.ensure_future(asyncio.to_thread(work, url, flood))
    try:
        return await asyncio.shield(running)
    except OSError as error:
        raise Unavailable(f"a flood broke off: {error}") from error
    finally:
        flood.abort()
        with contextlib.suppress(OSError, ClientError):
            await running
        flood.close()
