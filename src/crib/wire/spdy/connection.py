"""One SPDY/3.1 session without a socket: bytes in, events out; calls in, bytes out.

    session = Connection("server", Limits())
    for event in session.receive(await reader.read(65536)):
        ...
    writer.writelines(session.data_to_send())

Source: SPDY draft 3 and 3.1. Nothing that a peer sends raises an exception: a broken stream is reset and
reported as StreamReset, a broken session ends with a GOAWAY and SessionFailed.

Memory is bounded if the caller does two things. It takes `data_to_send` only when the socket is writable, and
sends no more while `queued` is high. And it stops reading the socket while it holds more unacknowledged data
than it wants, because most peers know no windows (see Windows).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from crib.wire.spdy import frames
from crib.wire.spdy.dispatch import Dispatch
from crib.wire.spdy.errors import SessionOver, SpdyError, StreamGone
from crib.wire.spdy.events import Event
from crib.wire.spdy.frames import FIN, INITIAL_WINDOW, MAX_ID, GoAwayStatus, ResetStatus, Setting
from crib.wire.spdy.headers import Headers, MalformedHeaders, pack_headers
from crib.wire.spdy.limits import Limits, Windows
from crib.wire.spdy.reader import Buffer
from crib.wire.spdy.state import State
from crib.wire.spdy.streams import Stream


class Connection:
    """A session as its server (who was connected to) or client. Not for several threads at once."""

    def __init__(self, role: Literal["server", "client"], limits: Limits) -> None:
        self._state = State(role == "server", limits)
        self._dispatch = Dispatch(self._state)
        self._next_ping = 2 if role == "server" else 1
        if limits.windows is Windows.ALWAYS:
            self.settings({Setting.INITIAL_WINDOW_SIZE: INITIAL_WINDOW})

    def receive(self, data: Buffer) -> list[Event]:
        """What the next bytes from the peer mean. Bytes after SessionFailed are thrown away."""
        return [event for event in self.steps(data) if event is not None]

    def steps(self, data: Buffer) -> Iterator[Event | None]:
        """The same frame by frame, None for one that means nothing: so the caller may pause between two.

        To be taken to its end before the next bytes.
        """
        return self._dispatch.steps(data)

    def data_to_send(self) -> list[Buffer]:
        """The bytes for the peer, in order, not copied: data is the very object that was given to
        `send_data`."""
        return self._state.take()

    @property
    def queued(self) -> int:
        """Bytes that `data_to_send` will give, without window updates."""
        return self._state.outbox.size

    @property
    def open_streams(self) -> int:
        """Streams that are open in a direction or have unacknowledged data."""
        return len(self._state.streams)

    @property
    def is_over(self) -> bool:
        """The session failed."""
        return self._state.over

    def open_stream(self, headers: Headers, *, fin: bool = False) -> int:
        """Open a stream and give its id; SpdyError, SessionOver. `fin`: we send nothing on it.

        Peers in practice drop data that comes before they have replied: wait for StreamReplied before
        sending.
        """
        state = self._state
        state.check_going()
        if state.goaway_sent or state.goaway_received:
            raise SessionOver("no stream can be opened after a GOAWAY")
        plain = _pack(headers)
        stream = state.streams.open_ours()
        block = state.deflater.deflate(plain)
        state.outbox.control(frames.syn_stream(stream.id, block, FIN if fin else 0))
        stream.sending = not fin
        return stream.id

    def reply(self, stream_id: int, headers: Headers = (), *, fin: bool = False) -> None:
        """Accept a stream of the peer's; StreamGone, SpdyError."""
        stream = self._sending(stream_id)
        if stream.ours or stream.replied:
            raise SpdyError(f"stream {stream_id} needs no reply")
        block = self._state.deflater.deflate(_pack(headers))
        self._state.outbox.control(frames.syn_reply(stream_id, block, FIN if fin else 0))
        stream.replied = True
        if fin:
            self._end_sending(stream)

    def send_data(self, stream_id: int, data: Buffer, *, fin: bool = False) -> None:
        """Send one frame of at most `window` bytes. Its object must not change until it was sent.

        A memoryview has one-byte items. `fin` sends no more on this stream. StreamGone, SpdyError.
        """
        stream = self._sending(stream_id)
        if not (stream.ours or stream.replied):
            raise SpdyError(f"data on stream {stream_id} before its reply")
        size = len(data)
        most = self._state.window(stream)
        if size > most:
            raise SpdyError(f"{size} bytes on stream {stream_id}, its window has {most}")
        if size or fin:
            self._state.outbox.data(frames.data_header(stream_id, size, fin), data)
        stream.granted -= size
        self._state.granted -= size
        if fin:
            self._end_sending(stream)

    def window(self, stream_id: int) -> int:
        """Bytes that the next `send_data` may have, 0 or more; StreamGone. It grows with WindowUpdated."""
        return self._state.window(self._sending(stream_id))

    def acknowledge(self, stream_id: int, size: int) -> None:
        """The application is done with `size` bytes of a stream's data; SpdyError when it had fewer.

        A stream is kept until all of it is acknowledged. No effect if it no longer exists (it was reset).
        """
        stream = self._state.streams.find(stream_id)
        if stream is None:
            return
        if not 0 <= size <= stream.unacknowledged:
            raise SpdyError(f"{size} bytes of stream {stream_id}, {stream.unacknowledged} are unacknowledged")
        stream.unacknowledged -= size
        self._state.credit(stream, size)
        self._state.forget_if_done(stream)

    def reset(self, stream_id: int, status: int = ResetStatus.CANCEL) -> None:
        """End a stream in both directions, now; nothing when it has ended already."""
        stream = self._state.streams.find(stream_id)
        if stream is not None:
            self._state.outbox.control(frames.rst_stream(stream_id, status))
            self._state.drop(stream)

    def ping(self) -> int:
        """Ask the peer for a PingAcknowledged with the id that is given; SpdyError when too many are
        unanswered."""
        state = self._state
        state.check_going()
        if len(state.pings) >= state.limits.max_pings:
            raise SpdyError(f"{len(state.pings)} pings are unanswered")
        ping_id = self._next_ping
        self._next_ping = ping_id + 2 if ping_id + 2 <= MAX_ID else ping_id % 2 or 2
        state.pings.add(ping_id)
        state.outbox.control(frames.ping(ping_id))
        return ping_id

    def settings(self, entries: Mapping[int, int]) -> None:
        """Announce limits. MAX_CONCURRENT_STREAMS only helps the peer: Limits hold in any case."""
        self._state.check_going()
        if entries.get(Setting.INITIAL_WINDOW_SIZE, INITIAL_WINDOW) != INITIAL_WINDOW:
            raise SpdyError("the initial window is fixed")
        self._state.outbox.control(frames.settings(entries))

    def goaway(self, status: int = GoAwayStatus.OK) -> None:
        """Take no new streams. Peers in practice read nothing after it: send it when the last stream has
        ended."""
        self._state.check_going()
        self._state.say_goaway(status)

    def _sending(self, stream_id: int) -> Stream:
        self._state.check_going()
        stream = self._state.streams.get(stream_id)
        if not stream.sending:
            raise StreamGone(f"stream {stream_id} was ended by us")
        return stream

    def _end_sending(self, stream: Stream) -> None:
        stream.sending = False
        self._state.forget_if_done(stream)


def _pack(headers: Headers) -> bytes:
    try:
        return pack_headers(headers)
    except MalformedHeaders as error:
        raise SpdyError(str(error)) from error
