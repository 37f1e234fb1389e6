"""The receiving half of a session: what each frame of the peer's means."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from crib.wire.spdy import frames
from crib.wire.spdy.errors import SessionFault, StreamFault
from crib.wire.spdy.events import (
    DataReceived,
    Event,
    GoAwayReceived,
    PingAcknowledged,
    PingReceived,
    SessionFailed,
    SettingsReceived,
    StreamOpened,
    StreamReplied,
    StreamReset,
    WindowUpdated,
)
from crib.wire.spdy.frames import (
    FIN,
    MAX_ID,
    UNIDIRECTIONAL,
    FrameType,
    GoAwayStatus,
    MalformedFrame,
    ResetStatus,
    Setting,
)
from crib.wire.spdy.headers import BrokenCompression, Headers, MalformedHeaders, unpack_headers
from crib.wire.spdy.limits import Windows
from crib.wire.spdy.reader import Buffer, ControlFrame, DataPart, FrameReader
from crib.wire.spdy.state import State
from crib.wire.spdy.streams import Stream


class Dispatch:
    """Turns bytes into events, and changes the session's state on the way."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._reader = FrameReader(state.limits)
        self._inflated = 0
        """Bytes of header blocks within this call of `steps`."""
        self._handlers: dict[FrameType, Callable[[int, bytes], Event | None]] = {
            FrameType.SYN_STREAM: self._syn_stream,
            FrameType.SYN_REPLY: self._syn_reply,
            FrameType.RST_STREAM: self._rst_stream,
            FrameType.SETTINGS: self._settings,
            FrameType.PING: self._ping,
            FrameType.GOAWAY: self._goaway,
            FrameType.HEADERS: self._headers,
            FrameType.WINDOW_UPDATE: self._window_update,
        }

    def steps(self, data: Buffer) -> Iterator[Event | None]:
        """What each frame of the next bytes means."""
        if self._state.over:
            return
        self._inflated = 0
        try:
            for frame in self._reader.read(data):
                self._check_reading()
                try:
                    event = self._data(frame) if isinstance(frame, DataPart) else self._control(frame)
                except StreamFault as fault:
                    event = self._reset(fault)
                yield event
        except (SessionFault, MalformedFrame, BrokenCompression) as error:
            status = error.status if isinstance(error, SessionFault) else GoAwayStatus.PROTOCOL_ERROR
            self._state.fail(status)
            yield SessionFailed(status, str(error))

    def _reset(self, fault: StreamFault) -> Event | None:
        self._state.outbox.control(frames.rst_stream(fault.stream_id, fault.status))
        stream = self._state.streams.find(fault.stream_id)
        if stream is None:
            return None
        self._state.drop(stream)
        return StreamReset(stream.id, fault.status, str(fault))

    def _data(self, part: DataPart) -> Event | None:
        state = self._state
        size = len(part.data)
        state.incoming.left -= size
        if state.incoming.left < 0 and state.limits.windows is Windows.ALWAYS:
            raise SessionFault("more data than the session's window has")
        stream = state.streams.find(part.stream_id)
        if stream is None:
            state.credit(None, size)
            if part.last and not state.streams.was_used(part.stream_id):
                raise StreamFault(part.stream_id, "data for no stream", ResetStatus.INVALID_STREAM)
            return None
        stream.unacknowledged += size
        self._check_receiving(stream)
        stream.incoming.left -= size
        if stream.incoming.left < 0 and state.limits.windows is Windows.ALWAYS:
            reason = f"more data than the window of stream {stream.id} has"
            raise StreamFault(stream.id, reason, ResetStatus.FLOW_CONTROL_ERROR)
        if part.fin:
            self._end_receiving(stream)
        return DataReceived(stream.id, part.data, part.fin) if size or part.fin else None

    def _check_receiving(self, stream: Stream) -> None:
        if not stream.receiving:
            reason = f"data on stream {stream.id} after its end"
            raise StreamFault(stream.id, reason, ResetStatus.STREAM_ALREADY_CLOSED)
        if stream.ours and not stream.replied:
            raise StreamFault(stream.id, f"data on stream {stream.id} before its reply")

    def _end_receiving(self, stream: Stream) -> None:
        stream.receiving = False
        self._state.forget_if_done(stream)

    def _check_reading(self) -> None:
        queued = self._state.outbox.control_size
        if queued > self._state.limits.max_control_queued:
            reason = f"the peer sends more, and {queued} bytes of control frames wait for it"
            raise SessionFault(reason, GoAwayStatus.INTERNAL_ERROR)

    def _control(self, frame: ControlFrame) -> Event | None:
        return self._handlers[frame.kind](frame.flags, frame.body)

    def _inflate(self, block: bytes) -> bytes:
        """A plain header block; all blocks come through here, or the next ones could not be read."""
        plain = self._state.inflater.inflate(block)
        self._inflated += len(plain)
        if self._inflated > self._state.limits.max_header_bytes_at_once:
            raise SessionFault(f"{self._inflated} bytes of headers at once")
        return plain

    def _unpack(self, stream_id: int, plain: bytes) -> Headers:
        try:
            return unpack_headers(plain, self._state.limits)
        except MalformedHeaders as error:
            raise StreamFault(stream_id, str(error)) from error

    def _syn_stream(self, flags: int, body: bytes) -> Event | None:
        state = self._state
        stream_id, block = frames.read_syn_stream(body)
        plain = self._inflate(block)
        if state.goaway_sent:
            return None
        state.streams.claim(stream_id)
        headers = self._unpack(stream_id, plain)
        stream = state.streams.open_theirs(stream_id)
        stream.receiving = not flags & FIN
        stream.sending = not flags & UNIDIRECTIONAL
        event = StreamOpened(stream_id, headers, not stream.receiving)
        state.forget_if_done(stream)
        return event

    def _syn_reply(self, flags: int, body: bytes) -> Event | None:
        stream_id, block = frames.read_headers(body)
        headers = self._unpack(stream_id, self._inflate(block))
        stream = self._known(stream_id)
        if stream is None:
            return None
        if not stream.ours or stream.replied:
            raise StreamFault(stream_id, f"second reply on stream {stream_id}", ResetStatus.STREAM_IN_USE)
        stream.replied = True
        if flags & FIN:
            self._end_receiving(stream)
        return StreamReplied(stream_id, headers, bool(flags & FIN))

    def _headers(self, flags: int, body: bytes) -> Event | None:
        """Nothing in these sessions uses additional headers; only their FIN is reported."""
        stream_id, block = frames.read_headers(body)
        self._unpack(stream_id, self._inflate(block))
        stream = self._known(stream_id)
        if stream is None:
            return None
        self._check_receiving(stream)
        if not flags & FIN:
            return None
        self._end_receiving(stream)
        return DataReceived(stream_id, b"", True)

    def _known(self, stream_id: int) -> Stream | None:
        """The stream, None when it is gone; StreamFault when it never was."""
        stream = self._state.streams.find(stream_id)
        if stream is None and not self._state.streams.was_used(stream_id):
            raise StreamFault(stream_id, "frame for no stream", ResetStatus.INVALID_STREAM)
        return stream

    def _rst_stream(self, _: int, body: bytes) -> Event | None:
        stream_id, status = frames.read_pair(body)
        stream = self._state.streams.find(stream_id)
        if stream is None:
            return None
        self._state.drop(stream)
        return StreamReset(stream_id, status)

    def _settings(self, _: int, body: bytes) -> Event | None:
        entries = frames.read_settings(body)
        initial = entries.get(Setting.INITIAL_WINDOW_SIZE, self._state.peer_initial)
        if initial > MAX_ID:
            raise SessionFault(f"initial window of {initial} bytes")
        self._state.peer_initial = initial
        streams = self._state.streams
        streams.peer_allows = entries.get(Setting.MAX_CONCURRENT_STREAMS, streams.peer_allows)
        self._state.keep_windows()
        return SettingsReceived(entries)

    def _ping(self, _: int, body: bytes) -> Event | None:
        ping_id = frames.read_ping(body)
        if not self._state.streams.is_ours(ping_id):
            self._state.outbox.control(frames.ping(ping_id))
            return PingReceived(ping_id)
        if ping_id not in self._state.pings:
            return None
        self._state.pings.remove(ping_id)
        return PingAcknowledged(ping_id)

    def _goaway(self, _: int, body: bytes) -> Event | None:
        last_stream_id, status = frames.read_pair(body)
        self._state.goaway_received = True
        return GoAwayReceived(last_stream_id, status)

    def _window_update(self, _: int, body: bytes) -> Event | None:
        state = self._state
        stream_id, delta = frames.read_pair(body)
        delta &= MAX_ID
        if not delta:
            raise SessionFault("WINDOW_UPDATE of 0 bytes")
        state.keep_windows()
        if not stream_id:
            state.granted += delta
            if state.granted > MAX_ID:
                raise SessionFault("the session's window has more than 31 bits")
            return WindowUpdated(0)
        stream = state.streams.find(stream_id)
        if stream is None:
            return None
        stream.granted += delta
        if state.peer_initial + stream.granted > MAX_ID:
            reason = f"the window of stream {stream_id} has more than 31 bits"
            raise StreamFault(stream_id, reason, ResetStatus.FLOW_CONTROL_ERROR)
        return WindowUpdated(stream_id)
