"""Bytes of a session, cut anywhere, into control frames and parts of data frames.

Only a frame's header and a control frame's body are held back until they are whole; a body that is too long
for its type ends the session before it is held. Data is passed on as it comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from crib.wire.spdy.errors import SessionFault
from crib.wire.spdy.frames import FIN, FRAME_HEADER, MAX_ID, VERSION, FrameType, control_type, read_header
from crib.wire.spdy.limits import Limits

Buffer = bytes | bytearray | memoryview


class ControlFrame(NamedTuple):
    """A whole control frame of a known type."""

    kind: FrameType
    flags: int
    body: bytes


class DataPart(NamedTuple):
    """A part of a data frame; `last` with the frame's last bytes, `fin` with the stream's."""

    stream_id: int
    data: bytes
    last: bool
    fin: bool


class FrameReader:
    """The state of reading: within a header, within a control frame's body, or within data."""

    def __init__(self, limits: Limits) -> None:
        self._max_data = limits.max_data_frame
        self._max_control: dict[int, int] = {
            FrameType.SYN_STREAM: limits.max_header_block + 10,
            FrameType.SYN_REPLY: limits.max_header_block + 4,
            FrameType.HEADERS: limits.max_header_block + 4,
            FrameType.SETTINGS: limits.max_settings * 8 + 4,
            FrameType.RST_STREAM: 8,
            FrameType.GOAWAY: 8,
            FrameType.WINDOW_UPDATE: 8,
            FrameType.PING: 4,
        }
        self._held = bytearray()
        self._control: tuple[FrameType, int, int] | None = None
        """Type, flags and length of the control frame whose body is read."""
        self._left = 0
        """Bytes of the data frame, or of the frame that is skipped, still to come."""
        self._stream_id = 0
        """Of that data frame; 0 when the bytes are skipped."""
        self._fin = False

    def read(self, data: Buffer) -> Iterator[ControlFrame | DataPart]:
        """What `data` completes or brings; SessionFault when a frame cannot be taken."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                part = bytes(data[at : at + self._left])
                at += len(part)
                self._left -= len(part)
                if self._stream_id:
                    whole = not self._left
                    yield DataPart(self._stream_id, part, whole, whole and self._fin)
                continue
            need = FRAME_HEADER if self._control is None else self._control[2]
            piece = data[at : at + need - len(self._held)]
            at += len(piece)
            self._held += piece
            if len(self._held) < need:
                return
            whole_bytes = bytes(self._held)
            self._held.clear()
            frame = self._begin(whole_bytes) if self._control is None else self._finish(whole_bytes)
            if frame is not None:
                yield frame

    def _begin(self, header: bytes) -> ControlFrame | DataPart | None:
        first, flags, length = read_header(header)
        control = control_type(first)
        if control is None:
            return self._begin_data(first & MAX_ID, flags, length)
        version, kind = control
        if version != VERSION:
            raise SessionFault(f"frame of SPDY version {version}, this is version {VERSION}")
        most = self._max_control.get(kind)
        if most is None:
            self._stream_id, self._left = 0, length
            return None
        if length > most:
            raise SessionFault(f"{FrameType(kind).name} frame of {length} bytes, at most {most} are taken")
        self._control = FrameType(kind), flags, length
        return self._finish(b"") if length == 0 else None

    def _begin_data(self, stream_id: int, flags: int, length: int) -> DataPart | None:
        if not stream_id:
            raise SessionFault("data for stream 0")
        if length > self._max_data:
            raise SessionFault(f"data frame of {length} bytes, at most {self._max_data} are taken")
        self._stream_id, self._left, self._fin = stream_id, length, bool(flags & FIN)
        return None if length else DataPart(stream_id, b"", True, self._fin)

    def _finish(self, body: bytes) -> ControlFrame:
        assert self._control is not None
        kind, flags, _ = self._control
        self._control = None
        return ControlFrame(kind, flags, body)
