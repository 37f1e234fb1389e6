"""Bytes that Docker's Engine sends of processes: streams in frames, and logs with a time before each message.

Source: Docker Engine API, v1.41, ContainerAttach ("Stream format") and ContainerLogs.

A process without a terminal has frames of 8 bytes, which name the stream and the length, and then so many
bytes. With a terminal the bytes come as they are. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from crib.wire.crilog import parse_time

MAX_FRAME = 4 << 20
"""Bytes of one frame at most: the Engine's own buffers have 32 KiB, and some drivers of logs more."""
MAX_MESSAGE = 16 << 10
"""Bytes of one message of a log: the Engine cuts longer lines here."""
_HEAD = Struct(">BxxxI")
_STREAMS = {0: "stdout", 1: "stdout", 2: "stderr"}
_ERROR = 3
_LONGEST_TIME = 40


class Frames:
    """Bytes of a connection in, pieces with the names of their streams out."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._rest = bytearray()

    def receive(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Pieces that `data` completes, each a whole frame. ValueError for what is no frame."""
        if self._terminal:
            if data:
                yield "stdout", bytes(data)
            return
        self._rest += data
        while len(self._rest) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._rest)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes is longer than {MAX_FRAME}")
            if len(self._rest) < _HEAD.size + length:
                return
            payload = bytes(self._rest[_HEAD.size : _HEAD.size + length])
            del self._rest[: _HEAD.size + length]
            if kind == _ERROR:
                raise ValueError(f"the Engine broke off: {payload.decode('utf-8', 'replace')[:1000]}")
            if kind not in _STREAMS:
                raise ValueError(f"a frame of the unknown stream {kind}")
            if payload:
                yield _STREAMS[kind], payload


@dataclass(frozen=True, slots=True)
class LogMessage:
    """One message: a line with its newline, or a part of a long one without. `at` is ns since the epoch."""

    at: int
    stream: str
    content: bytes


class LogMessages:
    """Bytes of a log with times in, messages out."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._frames = Frames(terminal=False)
        self._rest = b""

    def receive(self, data: bytes) -> Iterator[LogMessage]:
        """Messages that `data` completes. ValueError for what is none."""
        if not self._terminal:
            for stream, payload in self._frames.receive(data):
                time, _, content = payload.partition(b" ")
                yield LogMessage(parse_time(time), stream, content)
            return
        self._rest += data
        yield from self._lines(ended=False)

    def last(self) -> Iterator[LogMessage]:
        """What is left at the end: of a terminal a line without its newline."""
        yield from self._lines(ended=True)

    def _lines(self, *, ended: bool) -> Iterator[LogMessage]:
        """With a terminal nothing but the length ends a message without a newline, unless it is the last."""
        begin, rest = 0, self._rest
        while begin < len(rest):
            space = rest.find(b" ", begin, begin + _LONGEST_TIME)
            if space < 0:
                if len(rest) - begin >= _LONGEST_TIME:
                    raise ValueError(f"{rest[begin : begin + _LONGEST_TIME]!r} does not begin with a time")
                break
            newline = rest.find(b"\n", space + 1, space + 1 + MAX_MESSAGE)
            end = newline + 1 if newline >= 0 else space + 1 + MAX_MESSAGE
            if end > len(rest):
                if not ended:
                    break
                end = len(rest)
            yield LogMessage(parse_time(rest[begin:space]), "stdout", rest[space + 1 : end])
            begin = end
        self._rest = rest[begin:]
