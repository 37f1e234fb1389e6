"""Frames of ttrpc as bytes, a reader of a connection's bytes, and what requests and responses hold.

Source: containerd's ttrpc, its PROTOCOL.md (version 1.2) and request.proto. A frame has ten bytes of header,
all big-endian: `length:32 stream:32 type:8 flags:8`. A stream is one call: its client opens it under an odd
number that only grows. The states of streams are in `ttrpc_calls`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from crib.wire.rpc_codes import Code

HEADER_BYTES = 10
MAX_DATA_BYTES = 4 << 20
"""Of one frame. A frame with more is skipped and told of."""
MAX_SKIPPED_BYTES = (16 << 20) - 1
"""A larger length is no length: its first byte is reserved as zero."""
MAX_STREAM = (1 << 32) - 1
MAX_METADATA = 256
"""Entries of one request."""
REMOTE_CLOSED = 0x01
"""The sender of the frame sends no more on this stream."""
REMOTE_OPEN = 0x02
"""In a request: the client sends data."""
NO_DATA = 0x04
"""A data frame that only ends: otherwise no bytes are an empty message."""

_HEADER = struct.Struct(">IIBB")
_MAX_UINT64 = (1 << 64) - 1


class Kind(IntEnum):
    """Types of frames."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Malformed(ValueError):
    """These bytes are no ttrpc."""


class Oversized(ValueError):
    """A message is larger than a frame can be."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `kind` may be a number that no `Kind` has."""

    stream: int
    kind: int
    flags: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Skipped:
    """A frame with too much data, which was left out."""

    stream: int
    kind: int
    length: int


@dataclass(frozen=True, slots=True)
class Request:
    """What opens a stream. No `timeout_nano` (0) is no time limit."""

    service: str
    method: str
    payload: bytes = b""
    timeout_nano: int = 0
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """What ends a stream."""

    code: int = Code.OK
    message: str = ""
    payload: bytes = b""


def frame(stream: int, kind: Kind, flags: int, data: bytes = b"") -> bytes:
    """A frame's bytes. Oversized if `data` is."""
    if len(data) > MAX_DATA_BYTES:
        raise Oversized(f"a message of {len(data)} bytes, ttrpc has at most {MAX_DATA_BYTES}")
    return _HEADER.pack(len(data), stream, kind, flags) + data


class FrameReader:
    """Bytes of one connection in, frames out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._skipping = 0

    def feed(self, data: bytes) -> None:
        """What has come in."""
        if self._skipping:
            left_out = min(self._skipping, len(data))
            self._skipping -= left_out
            data = data[left_out:]
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next(self) -> Frame | Skipped | None:
        """The next frame, if it is complete. Malformed at a length that no frame has."""
        begin = self._at + HEADER_BYTES
        if len(self._buffer) < begin:
            return None
        length, stream, kind, flags = _HEADER.unpack_from(self._buffer, self._at)
        if length > MAX_SKIPPED_BYTES:
            raise Malformed(f"a frame of {length} bytes")
        if length > MAX_DATA_BYTES:
            here = min(length, len(self._buffer) - begin)
            self._at = begin + here
            self._skipping = length - here
            return Skipped(stream, kind, length)
        if len(self._buffer) < begin + length:
            return None
        self._at = begin + length
        return Frame(stream, kind, flags, bytes(memoryview(self._buffer)[begin : self._at]))

    @property
    def held(self) -> int:
        """Bytes that no frame was made of yet."""
        return len(self._buffer) - self._at


def encode_request(request: Request) -> bytes:
    """The data of a request's frame."""
    parts = [_text(1, request.service), _text(2, request.method), _bytes(3, request.payload)]
    if request.timeout_nano:
        parts.append(b"\x20" + _varint(request.timeout_nano & _MAX_UINT64))
    parts += (_bytes(5, _text(1, key) + _text(2, value), always=True) for key, value in request.metadata)
    return b"".join(parts)


def decode_request(data: bytes) -> Request:
    """Malformed if it is none."""
    service = method = ""
    payload, timeout, metadata = b"", 0, list[tuple[str, str]]()
    for number, value in fields(data):
        match number, value:
            case 1, bytes():
                service = _decoded(value)
            case 2, bytes():
                method = _decoded(value)
            case 3, bytes():
                payload = value
            case 4, int():
                timeout = value - (1 << 64) if value >> 63 else value
            case 5, bytes():
                metadata.append(_key_value(value))
                if len(metadata) > MAX_METADATA:
                    raise Malformed(f"more than {MAX_METADATA} entries of metadata")
    return Request(service, method, payload, timeout, tuple(metadata))


def encode_response(response: Response) -> bytes:
    """The data of a response's frame. Without an error it has no status."""
    status = b""
    if response.code != Code.OK or response.message:
        code = b"\x08" + _varint(response.code & _MAX_UINT64) if response.code else b""
        status = _bytes(1, code + _text(2, response.message))
    return status + _bytes(2, response.payload)


def decode_response(data: bytes) -> Response:
    """Malformed if it is none. The details of a status are left out: no peer of ours sends any."""
    code, message, payload = 0, "", b""
    for number, value in fields(data):
        match number, value:
            case 1, bytes():
                for inner, part in fields(value):
                    match inner, part:
                        case 1, int():
                            code = part & 0x7FFFFFFF
                        case 2, bytes():
                            message = _decoded(part)
            case 2, bytes():
                payload = value
    return Response(code, message, payload)


def _key_value(data: bytes) -> tuple[str, str]:
    found = {number: _decoded(value) for number, value in fields(data) if isinstance(value, bytes)}
    return found.get(1, ""), found.get(2, "")


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"a string that is no UTF-8: {error}") from None


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, data: bytes, *, always: bool = False) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data if data or always else b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protobuf message; a field of fixed width is passed over."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise Malformed(f"a field with number {number}")
        match wire_type:
            case 0:
                value, at = _read_varint(data, at)
                yield number, value
            case 2:
                length, at = _read_varint(data, at)
                at += length
                if at > len(data):
                    raise Malformed("a field that goes on after its message")
                yield number, data[at - length : at]
            case 1 | 5:
                at += 8 if wire_type == 1 else 4
                if at > len(data):
                    raise Malformed("a field that goes on after its message")
            case _:
                raise Malformed(f"a field of wire type {wire_type}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    if at < len(data) and data[at] < 0x80:  # as most are
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Malformed("a number that goes on after its message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MAX_UINT64, at
    raise Malformed("a number with more than ten bytes")
