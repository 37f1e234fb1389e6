"""What both halves of a session, sending and receiving, work on."""

from __future__ import annotations

from crib.wire.spdy import frames
from crib.wire.spdy.errors import SessionOver
from crib.wire.spdy.frames import INITIAL_WINDOW, MAX_LENGTH
from crib.wire.spdy.headers import HeaderDeflater, HeaderInflater
from crib.wire.spdy.limits import Limits, Windows
from crib.wire.spdy.reader import Buffer
from crib.wire.spdy.streams import Incoming, Stream, StreamTable


class Outbox:
    """Bytes that wait to be taken, in order."""

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self.size = 0
        self.control_size = 0
        """Of these, the bytes of control frames."""

    def control(self, frame: bytes) -> None:
        self._buffers.append(frame)
        self.size += len(frame)
        self.control_size += len(frame)

    def data(self, header: bytes, data: Buffer) -> None:
        self._buffers.append(header)
        if data:
            self._buffers.append(data)
        self.size += len(header) + len(data)

    def take(self) -> list[Buffer]:
        buffers, self._buffers = self._buffers, []
        self.size = self.control_size = 0
        return buffers


class State:
    """Streams, windows and what is queued."""

    def __init__(self, is_server: bool, limits: Limits) -> None:
        self.limits = limits
        self.streams = StreamTable(is_server, limits)
        self.outbox = Outbox()
        self.deflater = HeaderDeflater()
        self.inflater = HeaderInflater(limits.max_header_bytes)
        self.pings: set[int] = set()
        """Ours without an answer."""
        self.over = False
        self.goaway_sent = False
        self.goaway_received = False
        self.windows_kept = limits.windows is Windows.ALWAYS
        """Whether what the peer may get is obeyed, and what it sends is granted again."""
        self.granted = INITIAL_WINDOW
        """Bytes that may be sent on the session."""
        self.peer_initial = INITIAL_WINDOW
        """The window of each of the peer's streams before WINDOW_UPDATE."""
        self.incoming = Incoming()
        """The session's."""
        self._due: dict[int, Stream] = {}
        """Streams that a WINDOW_UPDATE goes out for: at most one a stream waits, however slow the peer
        reads."""

    def check_going(self) -> None:
        if self.over:
            raise SessionOver("the session has failed")

    def window(self, stream: Stream) -> int:
        """Bytes that may be sent on a stream in one frame."""
        if not self.windows_kept:
            return MAX_LENGTH
        return max(0, min(self.granted, self.peer_initial + stream.granted, MAX_LENGTH))

    def keep_windows(self) -> None:
        """The peer uses flow control: from now on it is granted consumed bytes, earlier ones too."""
        if self.windows_kept:
            return
        self.windows_kept = True
        for stream in self.streams:
            self.credit(stream, 0)

    def credit(self, stream: Stream | None, size: int) -> None:
        """`size` bytes of a stream, or of one that is gone, need no memory any more."""
        self.incoming.credit += size
        if stream is None:
            return
        stream.incoming.credit += size
        if self.windows_kept and stream.receiving and stream.incoming.is_due():
            self._due[stream.id] = stream

    def forget_if_done(self, stream: Stream) -> None:
        """Ended in both directions and all of it acknowledged."""
        if not (stream.sending or stream.receiving or stream.unacknowledged):
            self.drop(stream)

    def drop(self, stream: Stream) -> None:
        """Forget a stream; what the application has of it counts as thrown away."""
        self.streams.remove(stream)
        self._due.pop(stream.id, None)
        self.credit(None, stream.unacknowledged)

    def say_goaway(self, status: int) -> None:
        self.outbox.control(frames.goaway(self.streams.last_theirs, status))
        self.goaway_sent = True

    def fail(self, status: int) -> None:
        """The last frame is a GOAWAY; nothing else is kept."""
        self.say_goaway(status)
        self.over = True
        self.streams.clear()
        self._due.clear()
        self.pings.clear()

    def take(self) -> list[Buffer]:
        """All that is queued, and the window updates that are due now."""
        for stream in self._due.values():
            if stream.receiving:
                self.outbox.control(frames.window_update(stream.id, stream.incoming.grant()))
        self._due.clear()
        if self.windows_kept and not self.over and self.incoming.is_due():
            self.outbox.control(frames.window_update(0, self.incoming.grant()))
        return self.outbox.take()
