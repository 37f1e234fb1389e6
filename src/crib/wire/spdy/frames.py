"""Frames of SPDY/3.1 as bytes: the builders, and the fields of a control frame's body.

Source: the SPDY protocol's draft 3 (2.2 framing, 2.6 control frames) and draft 3.1 (stream 0 in
WINDOW_UPDATE). All numbers are big-endian. A frame has 8 bytes of header: control frames `1 version:15
type:16 flags:8 length:24`, data frames `0 stream:31 flags:8 length:24`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum

VERSION = 3
FRAME_HEADER = 8
"""Bytes before the body of every frame."""
MAX_LENGTH = (1 << 24) - 1
"""Bytes of a body at most: the length field has 24 bits."""
MAX_ID = (1 << 31) - 1
"""The highest stream id, and the highest window and window update."""
INITIAL_WINDOW = 64 << 10
"""Bytes that may be sent on a new stream, and on a new session (3.1), before the first WINDOW_UPDATE."""
FIN = 0x01
UNIDIRECTIONAL = 0x02

_CONTROL = 0x80000000
_HEADER = struct.Struct(">II")
_WORD = struct.Struct(">I")
_PAIR = struct.Struct(">II")
_SYN_STREAM = struct.Struct(">IIBB")


class FrameType(IntEnum):
    """Control frames. The draft wants others to be skipped (CREDENTIAL, 10, among them)."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class ResetStatus(IntEnum):
    """Why a stream is reset (draft 3, 2.6.3)."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9
    INVALID_CREDENTIALS = 10
    FRAME_TOO_LARGE = 11


class GoAwayStatus(IntEnum):
    """Why a session ends (draft 3, 2.6.6)."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class Setting(IntEnum):
    """Ids in SETTINGS (draft 3, 2.6.4)."""

    UPLOAD_BANDWIDTH = 1
    DOWNLOAD_BANDWIDTH = 2
    ROUND_TRIP_TIME = 3
    MAX_CONCURRENT_STREAMS = 4
    CURRENT_CWND = 5
    DOWNLOAD_RETRANS_RATE = 6
    INITIAL_WINDOW_SIZE = 7
    CLIENT_CERTIFICATE_VECTOR_SIZE = 8


class MalformedFrame(ValueError):
    """The body is not what its type and length promise."""


def data_header(stream_id: int, length: int, fin: bool) -> bytes:
    """What comes before `length` bytes of data."""
    return _HEADER.pack(stream_id, (FIN << 24 if fin else 0) | length)


def syn_stream(stream_id: int, block: bytes, flags: int = 0) -> bytes:
    """Opens a stream; `block` is a compressed header block. Priority is the highest, nothing is
    associated."""
    return _control(FrameType.SYN_STREAM, flags, _SYN_STREAM.pack(stream_id, 0, 0, 0) + block)


def syn_reply(stream_id: int, block: bytes, flags: int = 0) -> bytes:
    """Accepts a stream."""
    return _control(FrameType.SYN_REPLY, flags, _WORD.pack(stream_id) + block)


def headers(stream_id: int, block: bytes, flags: int = 0) -> bytes:
    """More headers on a stream."""
    return _control(FrameType.HEADERS, flags, _WORD.pack(stream_id) + block)


def rst_stream(stream_id: int, status: int) -> bytes:
    """Ends a stream in both directions."""
    return _control(FrameType.RST_STREAM, 0, _PAIR.pack(stream_id, status))


def settings(entries: Mapping[int, int]) -> bytes:
    """Announces limits; flags of the entries are zero."""
    body = b"".join(_PAIR.pack(key, value) for key, value in entries.items())
    return _control(FrameType.SETTINGS, 0, _WORD.pack(len(entries)) + body)


def ping(ping_id: int) -> bytes:
    """A question or its answer, which is the same frame."""
    return _control(FrameType.PING, 0, _WORD.pack(ping_id))


def goaway(last_stream_id: int, status: int) -> bytes:
    """No stream after `last_stream_id` of the receiver's was or will be looked at."""
    return _control(FrameType.GOAWAY, 0, _PAIR.pack(last_stream_id, status))


def window_update(stream_id: int, delta: int) -> bytes:
    """`delta` more bytes may be sent on a stream; stream 0 is the session."""
    return _control(FrameType.WINDOW_UPDATE, 0, _PAIR.pack(stream_id, delta))


def read_header(data: bytes | bytearray | memoryview, at: int = 0) -> tuple[int, int, int]:
    """The first word, the flags and the length of a frame whose header starts at `at`."""
    first, second = _HEADER.unpack_from(data, at)
    return first, second >> 24, second & MAX_LENGTH


def control_type(first: int) -> tuple[int, int] | None:
    """Version and type in the first word of a control frame; None when it is a data frame's."""
    return ((first >> 16) & 0x7FFF, first & 0xFFFF) if first & _CONTROL else None


def read_syn_stream(body: bytes) -> tuple[int, bytes]:
    """The stream's id and the header block; priority, slot and the associated stream have no use here."""
    if len(body) < _SYN_STREAM.size:
        raise MalformedFrame(f"SYN_STREAM of {len(body)} bytes, it has at least {_SYN_STREAM.size}")
    return _stream_id(body), body[_SYN_STREAM.size :]


def read_headers(body: bytes) -> tuple[int, bytes]:
    """The stream's id and the header block of SYN_REPLY or HEADERS."""
    if len(body) < _WORD.size:
        raise MalformedFrame(f"SYN_REPLY or HEADERS of {len(body)} bytes, it has at least {_WORD.size}")
    return _stream_id(body), body[_WORD.size :]


def read_pair(body: bytes) -> tuple[int, int]:
    """The stream's id and the number of RST_STREAM, GOAWAY or WINDOW_UPDATE."""
    if len(body) != _PAIR.size:
        raise MalformedFrame(f"control frame of {len(body)} bytes, its type has {_PAIR.size}")
    return _stream_id(body), int(_WORD.unpack_from(body, 4)[0])


def read_ping(body: bytes) -> int:
    """The ping's id."""
    if len(body) != _WORD.size:
        raise MalformedFrame(f"PING of {len(body)} bytes, it has {_WORD.size}")
    return int(_WORD.unpack(body)[0])


def read_settings(body: bytes) -> dict[int, int]:
    """The entries by id. Of several with one id the first counts (draft 3, 2.6.4)."""
    if len(body) < _WORD.size:
        raise MalformedFrame(f"SETTINGS of {len(body)} bytes, it has at least {_WORD.size}")
    (count,) = _WORD.unpack_from(body)
    if len(body) != _WORD.size + count * _PAIR.size:
        raise MalformedFrame(f"SETTINGS of {len(body)} bytes cannot have {count} entries")
    entries: dict[int, int] = {}
    for key, value in _PAIR.iter_unpack(body[_WORD.size :]):
        entries.setdefault(key & MAX_LENGTH, value)  # the upper 8 bits are the entry's flags
    return entries


def _stream_id(body: bytes) -> int:
    return int(_WORD.unpack_from(body)[0]) & MAX_ID


def _control(kind: FrameType, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_CONTROL | VERSION << 16 | kind, flags << 24 | len(body)) + body
