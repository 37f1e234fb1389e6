"""Streams of a session: who opened them, which halves are open, and how much may be sent each way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from crib.wire.spdy.errors import SessionFault, SpdyError, StreamFault, StreamGone
from crib.wire.spdy.frames import INITIAL_WINDOW, MAX_ID, ResetStatus
from crib.wire.spdy.limits import Limits


@dataclass(slots=True)
class Incoming:
    """A window for what the peer sends. `left` is below zero when it does not keep it."""

    left: int = INITIAL_WINDOW
    credit: int = 0
    """Bytes that the application has consumed and that were not granted to the peer again yet."""

    def is_due(self) -> bool:
        """Half a window at a time: an update for every few bytes would be more frames than data."""
        return self.credit >= INITIAL_WINDOW // 2

    def grant(self) -> int:
        """What the next WINDOW_UPDATE says."""
        granted = min(self.credit, MAX_ID)
        self.credit -= granted
        self.left += granted
        return granted


@dataclass(slots=True)
class Stream:
    """One stream that is open in a direction, or whose data the application still has."""

    id: int
    ours: bool
    sending: bool = True
    """We may still send on it."""
    receiving: bool = True
    """The peer may still send on it."""
    replied: bool = False
    granted: int = 0
    """Bytes granted by WINDOW_UPDATE less those sent; the peer's initial window is added when it is asked
    for, so that SETTINGS need not walk over all streams."""
    incoming: Incoming = field(default_factory=Incoming)
    unacknowledged: int = 0
    """Bytes that the application got and did not acknowledge."""


class StreamTable:
    """The streams that are not forgotten, and the ids that were used."""

    def __init__(self, is_server: bool, limits: Limits) -> None:
        self._limits = limits
        self._parity = 0 if is_server else 1
        """Of the ids that we give: a client's are odd (draft 3, 2.3.2)."""
        self._next = 2 if is_server else 1
        self._open: dict[int, Stream] = {}
        self._theirs = 0
        self._theirs_ever = 0
        self.last_theirs = 0
        """The highest id that the peer used."""
        self.peer_allows = MAX_ID
        """Streams of ours that the peer takes at a time."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._open.values())

    def find(self, stream_id: int) -> Stream | None:
        return self._open.get(stream_id)

    def get(self, stream_id: int) -> Stream:
        """A stream that the caller names; StreamGone."""
        stream = self._open.get(stream_id)
        if stream is None:
            raise StreamGone(f"stream {stream_id} is not open")
        return stream

    def is_ours(self, stream_id: int) -> bool:
        return stream_id % 2 == self._parity

    def was_used(self, stream_id: int) -> bool:
        """Whether a stream of that id is open or was: frames for it may have been under way when it ended."""
        return stream_id < self._next if self.is_ours(stream_id) else stream_id <= self.last_theirs

    def open_ours(self) -> Stream:
        """The next stream of ours; SpdyError when the peer takes no more, or the ids are used up."""
        if len(self._open) - self._theirs >= self.peer_allows:
            raise SpdyError(f"{self.peer_allows} streams are open and the peer takes no more")
        if self._next > MAX_ID:
            raise SpdyError("all stream ids of this session are used")
        stream = Stream(self._next, ours=True)
        self._next += 2
        self._open[stream.id] = stream
        return stream

    def claim(self, stream_id: int) -> None:
        """The peer uses an id for a new stream; SessionFault, StreamFault.

        Ids have to rise. Clients are known that write two SYN_STREAMs in the wrong order: that costs them the
        late stream, as with other servers, not the session as the draft (2.3.2) says.
        """
        self._theirs_ever += 1
        if not stream_id or self.is_ours(stream_id):
            raise SessionFault(f"the peer cannot open a stream {stream_id}")
        if stream_id <= self.last_theirs:
            raise StreamFault(stream_id, f"stream {stream_id} after stream {self.last_theirs}")
        self.last_theirs = stream_id

    def open_theirs(self, stream_id: int) -> Stream:
        """The stream of a claimed id; StreamFault when there are too many."""
        if self._theirs >= self._limits.max_open_streams or self._theirs_ever > self._limits.max_streams:
            reason = f"{self._theirs} streams are open, {self._theirs_ever} were opened"
            raise StreamFault(stream_id, reason, ResetStatus.REFUSED_STREAM)
        stream = self._open[stream_id] = Stream(stream_id, ours=False)
        self._theirs += 1
        return stream

    def remove(self, stream: Stream) -> None:
        del self._open[stream.id]
        if not stream.ours:
            self._theirs -= 1

    def clear(self) -> None:
        self._open.clear()
        self._theirs = 0
