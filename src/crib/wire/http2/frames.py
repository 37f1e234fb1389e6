"""Frames of HTTP/2, and what ends a connection (RFC 9113, sections 4, 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first."""
HEAD_BYTES = 9
FRAME_BYTES = 1 << 14
"""Most of a frame's content, unless an end says that it takes more."""
LARGEST_FRAME = (1 << 24) - 1
WINDOW = (1 << 16) - 1
"""Bytes that may be sent before more are allowed, on each stream and on the connection."""
LARGEST_WINDOW = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
"""Kinds of frames; others are passed over."""
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6
"""Settings."""
_PRIORITY_BYTES = 5
_SIZES = {RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
"""Bytes of content, for kinds that always have as many."""
_OF_STREAMS = frozenset((DATA, HEADERS, RST_STREAM, CONTINUATION))
_OF_CONNECTIONS = frozenset((SETTINGS, PING, GOAWAY))
"""Whether a kind belongs to a stream or to the connection; WINDOW_UPDATE is for both."""


class EndReason(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """The other end did what ends the connection."""

    def __init__(self, fault: EndReason, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class Frame(NamedTuple):
    """One that has come, whole."""

    kind: int
    flags: int
    stream: int
    content: bytes


class FrameReader:
    """Takes what comes, in whatever pieces, and gives frames."""

    def __init__(self, *, is_client: bool = False) -> None:
        """A client expects no preface, and takes frames of any size."""
        self._rest = b""
        self._greeted = is_client
        self._limit = LARGEST_FRAME if is_client else FRAME_BYTES

    def read(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Raises Http2Error."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        if not self._greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise Http2Error(EndReason.PROTOCOL_ERROR, "it does not begin as HTTP/2 does")
            if end < len(PREFACE):
                self._rest = data
                return
            self._greeted, at = True, len(PREFACE)
        while end - at >= HEAD_BYTES:
            length = int.from_bytes(data[at : at + 3], "big")
            if length > self._limit:
                raise Http2Error(EndReason.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            content = at + HEAD_BYTES
            if end - content < length:
                break
            stream = int.from_bytes(data[at + 5 : content], "big") & LARGEST_WINDOW
            kind, flags = data[at + 3], data[at + 4]
            _check(kind, stream, length)
            at = content + length
            yield Frame(kind, flags, stream, data[content:at])
        self._rest = data[at:]


def _check(kind: int, stream: int, length: int) -> None:
    """What its kind may be (section 6). Raises Http2Error."""
    if length != _SIZES.get(kind, length):
        raise Http2Error(EndReason.FRAME_SIZE_ERROR, f"a frame of kind {kind} with {length} bytes")
    if kind in _OF_CONNECTIONS if stream else kind in _OF_STREAMS:
        raise Http2Error(EndReason.PROTOCOL_ERROR, f"a frame of kind {kind} on stream {stream}")


def frame(kind: int, flags: int, stream: int, content: bytes | memoryview = b"") -> bytes:
    """One to be sent."""
    return b"".join((head(kind, flags, stream, len(content)), content))


def head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """What goes before so many bytes of content."""
    return ((length << 16 | kind << 8 | flags) << 32 | stream).to_bytes(HEAD_BYTES, "big")


def settings(values: dict[int, int]) -> bytes:
    """A frame of them."""
    content = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
    return frame(SETTINGS, 0, 0, content)


def read_settings(content: bytes) -> Iterator[tuple[int, int]]:
    """Keys and values. Raises Http2Error."""
    if len(content) % 6:
        raise Http2Error(EndReason.FRAME_SIZE_ERROR, f"settings of {len(content)} bytes")
    for at in range(0, len(content), 6):
        yield int.from_bytes(content[at : at + 2], "big"), int.from_bytes(content[at + 2 : at + 6], "big")


def without_padding(found: Frame) -> bytes:
    """The content of DATA or HEADERS alone. Raises Http2Error."""
    content, begin, end = found.content, 0, len(found.content)
    if found.flags & PADDED:
        if not content:
            raise Http2Error(EndReason.FRAME_SIZE_ERROR, "a padded frame without a length of it")
        begin, end = 1, end - content[0]
    if found.kind == HEADERS and found.flags & HAS_PRIORITY:
        begin += _PRIORITY_BYTES
    if begin > end:
        raise Http2Error(EndReason.PROTOCOL_ERROR, "more padding than content")
    return content[begin:end]
