"""One client: its frames, its windows, and its calls (RFC 9113)."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, cast

from crib.rpc.call import GrpcCall
from crib.rpc.codes import CallRefused, Code
from crib.wire.http2 import frames, hpack
from crib.wire.http2.frames import EndReason, Frame, FrameReader, Http2Error
from crib.wire.http2.hpack import BadHeaders, HeaderReader

_log = logging.getLogger(__name__)

HEADERS_LIMIT = 16 << 10
"""Bytes of a call's headers, as SETTINGS_MAX_HEADER_LIST_SIZE counts them; a call with more is refused."""
BLOCK_LIMIT = 64 << 10
"""Bytes of headers as they come, which end the connection when there are more."""
UNREAD_LIMIT = 4 << 20
"""Bytes of small frames that a client may leave unread; more end its connection."""
TURN = 16
"""Calls of one reading that are answered at once."""
LARGE_FRAME = 64 << 10
"""Bytes of a frame that goes at most, if the client takes as much."""
STRETCH_BYTES = 256 << 10
"""Of one call in one go: what the client has not read yet is never more than this and a few frames."""


class Answering(Protocol):
    """What a connection needs of its server."""

    message_limit: int

    def begin(self, call: GrpcCall, *, at_once: bool) -> None:
        """Its request is here: handle it."""
        ...

    def admits(self) -> bool:
        """Whether one more call may be open; it counts from then on."""
        ...

    def ended(self) -> None:
        """One counts no more."""
        ...

    def connected(self, connection: GrpcConnection) -> None: ...

    def lost(self, connection: GrpcConnection) -> None: ...


class GrpcConnection(asyncio.Protocol):
    """Handles what comes as the loop reads it."""

    def __init__(self, server: Answering) -> None:
        self.limit = server.message_limit
        self._server = server
        self._transport: asyncio.Transport
        self._frames = FrameReader()
        self._headers = HeaderReader()
        self._block: tuple[Frame, bytearray] | None = None
        """Headers whose end has not come yet."""
        self._calls: dict[int, GrpcCall] = {}
        self._last = 0
        """The latest call that came."""
        self._window = self.first_window = frames.WINDOW
        self._frame_bytes = frames.FRAME_BYTES
        """Of the client: what it lets us send."""
        self._uncredited = 0
        """Bytes that came since it was last allowed more."""
        self._queued: dict[int, GrpcCall] = {}
        """Calls that have something to send."""
        self._out: list[bytes] = []
        self._is_reading = self._is_paused = self._is_leaving = False
        self._at_once = 0

    @property
    def is_idle(self) -> bool:
        """Whether it has no call."""
        return not self._calls

    # the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.send(frames.settings({frames.MAX_HEADER_LIST_SIZE: HEADERS_LIMIT}))
        self._server.connected(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.lost(self)
        for call in tuple(self._calls.values()):
            call.abandon()

    def data_received(self, data: bytes) -> None:
        self._is_reading, self._at_once = True, TURN
        try:
            for found in self._frames.read(data):
                self._handle(found)
        except Http2Error as error:
            self._fail(error.fault, str(error))
        except BadHeaders as error:
            self._fail(EndReason.COMPRESSION_ERROR, str(error))
        finally:
            self._is_reading = False
            self._pump()
            self._flush()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._pump()

    def _fail(self, fault: EndReason, text: str) -> None:
        _log.debug("a client's connection ends: %s", text)
        self.end(fault)

    def end(self, fault: EndReason = EndReason.NO_ERROR) -> None:
        """Say so, and wait for no client that does not read it."""
        self.leave(fault)
        self.close()
        if self._transport.get_write_buffer_size():
            self._transport.abort()

    def leave(self, fault: EndReason = EndReason.NO_ERROR) -> None:
        """Take no more calls, and say so."""
        if not self._is_leaving:
            self._is_leaving = True
            content = self._last.to_bytes(4, "big") + fault.to_bytes(4, "big")
            self.send(frames.frame(frames.GOAWAY, 0, 0, content))

    def close(self) -> None:
        """End its calls now, and itself once what was written has gone."""
        for call in tuple(self._calls.values()):
            call.abandon()
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Whether or not the client has read everything."""
        self._transport.abort()

    # what comes

    def _handle(self, found: Frame) -> None:
        kind, stream = found.kind, found.stream
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block[0].stream):
            raise Http2Error(EndReason.PROTOCOL_ERROR, "headers that do not end")
        if kind == frames.DATA:
            self._take_data(found)
        elif kind == frames.HEADERS:
            content = frames.without_padding(found)
            if found.flags & frames.END_HEADERS:
                self._take_headers(found, content)
            else:
                self._block = found, bytearray(content)
        elif kind == frames.CONTINUATION:
            self._continue(found)
        elif kind == frames.RST_STREAM:
            if stream > self._last:
                raise Http2Error(EndReason.PROTOCOL_ERROR, f"a reset of stream {stream}, which is no call")
            if (call := self._calls.get(stream)) is not None:
                call.abandon()
        else:
            self._control(found)

    def _control(self, found: Frame) -> None:
        """Frames of the connection itself."""
        kind, is_answer = found.kind, found.flags & frames.ACK
        if kind == frames.WINDOW_UPDATE:
            self._widen(found.stream, int.from_bytes(found.content, "big") & frames.LARGEST_WINDOW)
        elif kind == frames.SETTINGS and is_answer and found.content:
            raise Http2Error(EndReason.FRAME_SIZE_ERROR, "an answer to settings with content")
        elif kind == frames.SETTINGS and not is_answer:
            self._set(found)
        elif kind == frames.PING and not is_answer:
            self.send(frames.frame(frames.PING, frames.ACK, 0, found.content))
        elif kind == frames.PUSH_PROMISE:
            raise Http2Error(EndReason.PROTOCOL_ERROR, "a client that pushes")

    def _continue(self, found: Frame) -> None:
        if self._block is None:
            raise Http2Error(EndReason.PROTOCOL_ERROR, "headers that go on without a beginning")
        first, content = self._block
        content += found.content
        if len(content) > BLOCK_LIMIT:
            raise Http2Error(EndReason.ENHANCE_YOUR_CALM, f"more than {BLOCK_LIMIT} bytes of headers")
        if found.flags & frames.END_HEADERS:
            self._block = None
            self._take_headers(first, bytes(content))

    def _take_headers(self, found: Frame, block: bytes) -> None:
        headers, stream = self._headers.read(block), found.stream
        if stream <= self._last:  # the end of a call that is known, or was
            if (call := self._calls.get(stream)) is not None:
                self._come(call, b"", 0, ended=True)
            return
        if not stream & 1:
            raise Http2Error(EndReason.PROTOCOL_ERROR, f"a call on stream {stream}")
        self._last = stream
        if self._is_leaving:
            fault = EndReason.REFUSED_STREAM.to_bytes(4, "big")
            self.send(frames.frame(frames.RST_STREAM, 0, stream, fault))
            return
        call = GrpcCall(self, stream, headers)
        self._calls[stream] = call
        if not self._server.admits():
            call.refuse(Code.RESOURCE_EXHAUSTED, "too many calls at once")
        elif hpack.size_of(headers) > HEADERS_LIMIT:
            call.refuse(Code.RESOURCE_EXHAUSTED, f"more than {HEADERS_LIMIT} bytes of headers")
        elif found.flags & frames.END_STREAM:
            self._come(call, b"", 0, ended=True)

    def _take_data(self, found: Frame) -> None:
        counted = len(found.content)
        self._uncredited += counted
        if self._uncredited > frames.WINDOW // 2:
            more, self._uncredited = self._uncredited.to_bytes(4, "big"), 0
            self.send(frames.frame(frames.WINDOW_UPDATE, 0, 0, more))
        call = self._calls.get(found.stream)
        if call is not None:
            content = frames.without_padding(found)
            self._come(call, content, counted, ended=bool(found.flags & frames.END_STREAM))
        elif found.stream > self._last or not found.stream:
            raise Http2Error(EndReason.PROTOCOL_ERROR, f"content on stream {found.stream}, which is no call")

    def _come(self, call: GrpcCall, content: bytes, counted: int, *, ended: bool) -> None:
        call.received(content, counted=counted, ended=ended)
        if call.has_begun:
            return
        try:
            if not call.is_ready():
                return
        except CallRefused as error:
            call.refuse(error.code, str(error))
            return
        call.has_begun = True
        self._at_once -= 1
        self._server.begin(call, at_once=self._at_once >= 0)

    def _widen(self, stream: int, more: int) -> None:
        if not more:
            raise Http2Error(EndReason.PROTOCOL_ERROR, f"stream {stream}: a window that grows by nothing")
        if stream == 0:
            self._window += more
            if self._window > frames.LARGEST_WINDOW:
                raise Http2Error(EndReason.FLOW_CONTROL_ERROR, "a window that is too large")
        elif (call := self._calls.get(stream)) is not None:
            call.credit += more
            if call.window > frames.LARGEST_WINDOW:
                raise Http2Error(EndReason.FLOW_CONTROL_ERROR, "a window that is too large")
        self._pump()

    def _set(self, found: Frame) -> None:
        for key, value in frames.read_settings(found.content):
            if key == frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise Http2Error(EndReason.FLOW_CONTROL_ERROR, "a window that is too large")
                self.first_window = value
            elif key == frames.MAX_FRAME_SIZE:
                if not frames.FRAME_BYTES <= value <= frames.LARGEST_FRAME:
                    raise Http2Error(EndReason.PROTOCOL_ERROR, f"frames of {value} bytes")
                self._frame_bytes = min(value, LARGE_FRAME)
        self.send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._pump()

    # what goes; see `call.Wire`

    def send(self, data: bytes) -> None:
        self._out.append(data)
        if not self._is_reading or len(data) > frames.FRAME_BYTES:  # so that `fits` knows when it is too much
            self._flush()

    def fits(self, size: int) -> bool:
        return size <= self._window and size <= self._frame_bytes and not (self._queued or self._is_paused)

    def spend(self, size: int) -> None:
        self._window -= size

    def queue(self, call: GrpcCall) -> None:
        self._queued[call.stream] = call
        self._pump()

    def closed(self, call: GrpcCall) -> None:
        self._queued.pop(call.stream, None)
        if self._calls.pop(call.stream, None) is not None:
            call.release(self._server.ended)

    def _flush(self) -> None:
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._transport.write(data)
            if self._is_paused and self._transport.get_write_buffer_size() > UNREAD_LIMIT:
                _log.debug("a client's connection ends: it does not read")
                self._transport.abort()

    def _pump(self) -> None:
        """Send what waits, as far as the windows go, call by call; once a reading, however often it asks."""
        is_moving = not self._is_reading
        while is_moving:
            is_moving = False
            for stream, call in tuple(self._queued.items()):
                if self._is_paused or self._window <= 0:
                    return
                if call.window <= 0 or self._queued.pop(stream, None) is None:
                    continue
                self._send_some(call)
                is_moving = True

    def _send_some(self, call: GrpcCall) -> None:
        pieces: list[bytes | memoryview] = []
        before = self._window
        while call.waits and self._window > 0 and call.window > 0 and before - self._window < STRETCH_BYTES:
            pieces += call.chunk(min(self._frame_bytes, self._window))
        self._out.append(b"".join(pieces))
        self._flush()
        if call.waits:
            self._queued[call.stream] = call
        else:
            call.sent()
