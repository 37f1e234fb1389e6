"""SPDY streams as sources and sinks of bytes, over one connection (frames: `crib.wire.spdy`).

`ServerSession` takes the streams that its peer opens, `ClientSession` opens them; the rest they share.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from crib.tunnel.inbox import Inbox, Room
from crib.wire import spdy
from crib.wire.spdy.reader import Buffer

_log = logging.getLogger(__name__)

WRITE_BYTES = 64 << 10
"""Of one data frame: larger ones would keep other streams of the connection waiting."""
TURN_FRAMES = 64
"""Frames after which others get their turn: an empty one costs some 15 us, and 100,000 may be there."""


class Carrier(Protocol):
    """What SPDY goes over: a connection (see `Link`), or the messages of a WebSocket."""

    @property
    def is_full(self) -> bool: ...

    async def receive(self) -> bytes: ...

    def put(self, data: Sequence[Buffer]) -> None: ...

    async def drain(self) -> None: ...


class SpdyStream(Inbox):
    """One stream, both ways. See ends.ByteStream.

    A server calls `accept` or `abort` first. A client writes nothing before `ClientSession.accepted`.
    """

    def __init__(self, session: SpdySession, stream_id: int, headers: spdy.Headers) -> None:
        super().__init__(session.room)
        self.stream_id = stream_id
        self.headers = headers
        self.is_accepted = False
        """A client's: the server has taken it."""
        self._session = session
        self._closed = False

    def accept(self) -> None:
        """Answer the client: it may send. ConnectionError when it has let the stream go."""
        self._session.reply(self)

    async def write(self, data: Buffer) -> None:
        if self._closed:
            raise BrokenPipeError("the stream is closed")
        view = memoryview(data)
        for start in range(0, len(view), WRITE_BYTES):
            await self._session.send_data(self, view[start : start + WRITE_BYTES])

    async def close(self) -> None:
        if not self._closed and not self.broken:
            self._closed = True
            await self._session.send_data(self, memoryview(b""), fin=True)

    def abort(self) -> None:
        self._session.reset(self)

    @property
    def is_done(self) -> bool:
        """Both sides have ended it, and all of it was read."""
        return self.has_ended and self._closed and not self.size

    def _given(self, count: int) -> None:
        super()._given(count)
        self._session.acknowledge(self, count)


class SpdySession(ABC):
    """One end of a connection. `run` reads it and must be running for anything to move."""

    def __init__(self, carrier: Carrier, connection: spdy.Connection, room: Room, peer: str) -> None:
        """`peer` is what the other end is called where it is to blame."""
        self.room = room
        """Of what has arrived on all streams."""
        self._carrier = carrier
        self._spdy = connection
        self._peer = peer
        self._streams: dict[int, SpdyStream] = {}
        self._discards = False
        self._turn = 0
        self._news = asyncio.Event()
        """The peer has opened, taken or let go of a stream."""
        self._window = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until the peer has gone or broken the protocol; then every stream is cut off."""
        why = f"the {self._peer} closed the connection"
        try:
            while not self._spdy.is_over and (data := await self._carrier.receive()):
                for event in self._spdy.steps(data):
                    if isinstance(event, spdy.SessionFailed):
                        why = f"the {self._peer} broke the protocol: {event.reason}"
                    self._take(event)
                    self._turn += 1
                    if self._turn >= TURN_FRAMES:
                        self._turn = 0
                        self._answer()
                        await asyncio.sleep(0)  # what is there already is not waited for
                self._answer()
                await self.room.wait()
        except ConnectionError as error:
            why = f"the connection broke: {error}"
        finally:
            streams, self._streams = self._streams, {}
            for stream in streams.values():
                self._break_off(stream, why)
            self._ended.set()
            self._window.set()
            self._news.set()

    async def ended(self) -> None:
        """Returns when `run` has."""
        await self._ended.wait()

    async def send_data(self, stream: SpdyStream, data: memoryview, *, fin: bool = False) -> None:
        """Returns when the peer has room for more. ConnectionError when the stream is over."""
        while data or fin:
            # All writers wake when there is room, and the first of them may fill it.
            while self._carrier.is_full:
                await self._carrier.drain()
            if stream.broken:
                raise ConnectionResetError(stream.broken)
            try:
                size = min(self._spdy.window(stream.stream_id), len(data))
                if data and not size:
                    self._window.clear()
                    await self._window.wait()
                    continue
                is_last = size == len(data)
                self._spdy.send_data(stream.stream_id, data[:size], fin=fin and is_last)
            except spdy.SpdyError as error:
                raise ConnectionResetError(stream.broken or str(error)) from error
            fin = fin and not is_last
            data = data[size:]
            await self._flush()
        self._forget_if_done(stream)

    def acknowledge(self, stream: SpdyStream, count: int) -> None:
        """So many bytes of a stream are held no more."""
        if not self._spdy.is_over:
            self._spdy.acknowledge(stream.stream_id, count)
            self._forget_if_done(stream)
            self._answer()

    def discard(self) -> None:
        """Nobody reads the streams any more: what comes is dropped, so that the peer's end is seen."""
        self._discards = True
        for stream in tuple(self._streams.values()):
            stream.drop()

    def reply(self, stream: SpdyStream) -> None:
        """Accept a stream of the peer's. ConnectionError when it has let the stream go."""
        try:
            self._spdy.reply(stream.stream_id)
        except spdy.SpdyError as error:
            raise ConnectionResetError(str(error)) from error
        self._answer()

    def reset(self, stream: SpdyStream) -> None:
        """End a stream in both directions."""
        if self._streams.pop(stream.stream_id, None) is not None:
            self._spdy.reset(stream.stream_id)
            self._break_off(stream, "the stream was let go")
            self._window.set()
            self._answer()

    @abstractmethod
    def _break_off(self, stream: SpdyStream, why: str) -> None:
        """Nothing more arrives or leaves on a stream."""

    @abstractmethod
    def _take_opened(self, event: spdy.StreamOpened) -> None:
        """The peer opens a stream."""

    def _take(self, event: spdy.Event | None) -> None:
        match event:
            case spdy.DataReceived():
                self._take_data(event)
            case spdy.StreamOpened():
                self._take_opened(event)
            case spdy.StreamReplied():
                if stream := self._streams.get(event.stream_id):
                    stream.is_accepted = True
                    if event.fin:
                        stream.end()
                self._news.set()
            case spdy.StreamReset():
                if stream := self._streams.pop(event.stream_id, None):
                    self._break_off(stream, event.reason or f"the {self._peer} reset the stream")
                self._window.set()
                self._news.set()
            case spdy.WindowUpdated() | spdy.SettingsReceived():
                self._window.set()

    def _take_data(self, event: spdy.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or self._discards:
            self._spdy.acknowledge(event.stream_id, len(event.data))
            return
        stream.feed(event.data)
        if event.fin:
            stream.end()
            self._forget_if_done(stream)

    def _forget_if_done(self, stream: SpdyStream) -> None:
        if stream.is_done:
            self._streams.pop(stream.stream_id, None)

    def _answer(self) -> None:
        """Send what is due without waiting: a reader that waits for the peer to read can wait forever.

        What does not fit goes with the data of the writer that filled the buffer, which waits in `_flush`.
        """
        if not self._carrier.is_full and (data := self._spdy.data_to_send()):
            try:
                self._carrier.put(data)
            except ConnectionError:
                pass  # `run` hears of it

    async def _flush(self) -> None:
        while data := self._spdy.data_to_send():
            self._carrier.put(data)
            await self._carrier.drain()


class ServerSession(SpdySession):
    """The server's end. What nobody has read of a stream when it breaks is dropped."""

    def __init__(self, carrier: Carrier, room: Room, max_streams: int, *, cuts_off: bool = False) -> None:
        """`cuts_off`: a stream that nobody reads for long is reset where others wait behind it."""
        super().__init__(
            carrier, spdy.Connection("server", spdy.Limits(max_open_streams=max_streams)), room, "client"
        )
        self._fresh: dict[int, SpdyStream] = {}
        """Opened and not looked at yet; those that were reset meanwhile are not kept."""
        self._refuses = False
        if cuts_off:
            room.when_stuck(self._cut_off)

    async def opened(self) -> SpdyStream | None:
        """The next stream that the client opens; None when there will be none."""
        while not self._fresh:
            if self._ended.is_set():
                return None
            self._news.clear()
            await self._news.wait()
        return self._fresh.pop(next(iter(self._fresh)))

    def refuse_more(self) -> None:
        """All streams that were awaited are there: others are reset, those that came already too."""
        self._refuses = True
        for stream in tuple(self._fresh.values()):
            self.reset(stream)
        self._fresh.clear()

    def _break_off(self, stream: SpdyStream, why: str) -> None:
        self._fresh.pop(stream.stream_id, None)
        stream.cut_off(why)

    def _take_opened(self, event: spdy.StreamOpened) -> None:
        if self._refuses:
            self._spdy.reset(event.stream_id, spdy.ResetStatus.REFUSED_STREAM)
            return
        stream = SpdyStream(self, event.stream_id, event.headers)
        self._streams[event.stream_id] = self._fresh[event.stream_id] = stream
        if event.fin:
            stream.end()
        self._news.set()

    def _cut_off(self) -> None:
        """Most peers know no windows: only without this stream its connection can be read on."""
        late = max(self._streams.values(), key=lambda stream: stream.size, default=None)
        if late is not None:
            _log.info("stream %d is reset: nobody reads it, and it holds up all others", late.stream_id)
            self.reset(late)


class ClientSession(SpdySession):
    """The client's end. What came of a stream before it broke can still be read."""

    def __init__(self, carrier: Carrier, room: Room) -> None:
        super().__init__(carrier, spdy.Connection("client", spdy.Limits()), room, "runtime")

    async def open(self, headers: spdy.Headers) -> SpdyStream:
        """Ask for a stream. ConnectionError."""
        try:
            stream = SpdyStream(self, self._spdy.open_stream(headers), headers)
        except spdy.SpdyError as error:
            raise ConnectionAbortedError(str(error)) from error
        self._streams[stream.stream_id] = stream
        await self._flush()
        return stream

    async def accepted(self, stream: SpdyStream) -> None:
        """Returns when the runtime has taken a stream. ConnectionError when it has not."""
        while not stream.is_accepted:
            if stream.broken:
                raise ConnectionRefusedError(stream.broken)
            self._news.clear()
            await self._news.wait()

    def _break_off(self, stream: SpdyStream, why: str) -> None:
        stream.break_off(why)

    def _take_opened(self, event: spdy.StreamOpened) -> None:
        self._spdy.reset(event.stream_id, spdy.ResetStatus.REFUSED_STREAM)
