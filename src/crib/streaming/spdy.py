"""SPDY streams as sources and sinks of bytes, over one connection (frames: `crib.wire.spdy`)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from crib.streaming.room import Room
from crib.wire import spdy
from crib.wire.spdy.reader import Buffer

_log = logging.getLogger(__name__)

WRITE_BYTES = 64 << 10
"""Of one data frame: larger ones would keep other streams of the connection waiting."""
TURN_FRAMES = 64
"""Frames after which others get their turn: an empty one costs some 15 us, and 100,000 may be there."""
SMALL_CHUNK = 1 << 10
"""Pieces are joined up to here: a flood of tiny ones would cost 30 times what it brings."""


class Carrier(Protocol):
    """What SPDY goes over: a connection, or the messages of a WebSocket. See `Link`."""

    @property
    def is_full(self) -> bool: ...

    async def receive(self) -> bytes: ...

    def put(self, data: Sequence[Buffer]) -> None: ...

    async def drain(self) -> None: ...

    def has_left(self) -> bool: ...


class SpdyStream:
    """One stream that the client opened. See ports.ByteStream; `accept` or `abort` it first."""

    def __init__(self, session: SpdySession, stream_id: int, headers: spdy.Headers) -> None:
        self.stream_id = stream_id
        self.headers = headers
        self.broken = ""
        """Why nothing comes or goes any more; empty while it does."""
        self._session = session
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._closed = False
        self._wake = asyncio.Event()
        self._tell: Callable[[], None] | None = None

    def accept(self) -> None:
        """Answer the client: it may send. ConnectionError when it has let the stream go."""
        self._session.reply(self)

    async def read(self) -> bytes:
        """ConnectionError when the stream was reset, or the connection broke."""
        while not self._chunks:
            if self.broken:
                raise ConnectionResetError(self.broken)
            if self._ended:
                return b""
            self._wake.clear()
            await self._wake.wait()
        data = self._take_all()
        self._session.taken(self, len(data))
        return data

    async def write(self, data: bytes) -> None:
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

    def when_broken(self, tell: Callable[[], None]) -> None:
        """Call this as soon as nothing comes or goes any more: who waits for something else hears of it."""
        self._tell = tell
        if self.broken:
            tell()

    def feed(self, data: bytes, *, fin: bool) -> None:
        """What came from the client."""
        if data and self._chunks and len(self._chunks[-1]) < SMALL_CHUNK:
            self._chunks[-1] += data
        elif data:
            self._chunks.append(data)
        self._ended = self._ended or fin
        self._wake.set()

    def break_off(self, why: str) -> int:
        """Nothing more comes or goes. The bytes that nobody read are dropped; how many they were."""
        self.broken = self.broken or why
        self._wake.set()
        if self._tell is not None:
            self._tell()
        return self.drop()

    def drop(self) -> int:
        """Forget what nobody has read; how many bytes it was."""
        return len(self._take_all())

    @property
    def held(self) -> int:
        """Bytes that nobody has read yet."""
        return sum(map(len, self._chunks))

    @property
    def is_done(self) -> bool:
        """Both sides have ended it, and all of it was read."""
        return self._ended and self._closed and not self._chunks

    def _take_all(self) -> bytes:
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        return data


class SpdySession:
    """The server's side of one connection. `run` reads it and must be running for anything to move."""

    def __init__(self, carrier: Carrier, max_streams: int, *, cuts_off: bool = False) -> None:
        """`cuts_off`: a stream that nobody reads for long is reset where others wait behind it."""
        self._carrier = carrier
        self._spdy = spdy.Connection("server", spdy.Limits(max_open_streams=max_streams))
        self._streams: dict[int, SpdyStream] = {}
        self._fresh: dict[int, SpdyStream] = {}
        """Opened and not looked at yet; those that were reset meanwhile are not kept."""
        self._news = asyncio.Event()
        self._refuses = False
        self._room = Room(carrier.has_left, self._cut_off if cuts_off else None)
        self._turn = 0
        self._window = asyncio.Event()
        self._ended = asyncio.Event()
        self._discards = False

    async def run(self) -> None:
        """Until the client has gone or broken the protocol; then every stream is broken off."""
        why = "the client has gone"
        try:
            while not self._spdy.is_over and (data := await self._carrier.receive()):
                for event in self._spdy.steps(data):
                    if isinstance(event, spdy.SessionFailed):
                        why = f"the client broke the protocol: {event.reason}"
                    self._take(event)
                    self._turn += 1
                    if self._turn >= TURN_FRAMES:
                        self._turn = 0
                        self._answer()
                        await asyncio.sleep(0)  # what is there already is not waited for
                self._answer()
                await self._room.wait()
        except ConnectionError as error:
            why = f"the connection broke: {error}"
        finally:
            for stream in self._streams.values():
                stream.break_off(why)
            self._streams.clear()
            self._window.set()
            self._ended.set()
            self._news.set()

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

    async def ended(self) -> None:
        """Returns when `run` has."""
        await self._ended.wait()

    def discard(self) -> None:
        """Nobody reads the streams any more: what comes is dropped, so that the client's end is seen."""
        self._discards = True
        for stream in tuple(self._streams.values()):
            self.taken(stream, stream.drop())

    def reply(self, stream: SpdyStream) -> None:
        """Accept a stream. ConnectionError when the client has let it go."""
        try:
            self._spdy.reply(stream.stream_id)
        except spdy.SpdyError as error:
            raise ConnectionResetError(str(error)) from error
        self._answer()

    async def send_data(self, stream: SpdyStream, data: memoryview, *, fin: bool = False) -> None:
        """Returns when the client has room for more. ConnectionError when the stream is over."""
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

    def taken(self, stream: SpdyStream, count: int) -> None:
        """A reader took so many bytes."""
        self._room.give(count)
        self._spdy.acknowledge(stream.stream_id, count)
        self._forget_if_done(stream)
        self._answer()

    def reset(self, stream: SpdyStream) -> None:
        """End a stream in both directions."""
        if self._streams.pop(stream.stream_id, None) is not None:
            self._room.give(stream.break_off("the stream was let go"))
            self._spdy.reset(stream.stream_id)
            self._window.set()
            self._answer()

    def _cut_off(self) -> None:
        """Most peers know no windows: only without this stream its connection can be read on."""
        late = max(self._streams.values(), key=lambda stream: stream.held, default=None)
        if late is not None:
            _log.info("stream %d is reset: nobody reads it, and it holds up all others", late.stream_id)
            self.reset(late)

    def _take(self, event: spdy.Event | None) -> None:
        match event:
            case spdy.StreamOpened():
                if self._refuses:
                    self._spdy.reset(event.stream_id, spdy.ResetStatus.REFUSED_STREAM)
                    return
                stream = SpdyStream(self, event.stream_id, event.headers)
                self._streams[event.stream_id] = self._fresh[event.stream_id] = stream
                stream.feed(b"", fin=event.fin)
                self._news.set()
            case spdy.DataReceived():
                self._take_data(event)
            case spdy.StreamReset():
                self._fresh.pop(event.stream_id, None)
                if found := self._streams.pop(event.stream_id, None):
                    self._room.give(found.break_off(event.reason or "the client reset the stream"))
                self._window.set()
            case spdy.WindowUpdated() | spdy.SettingsReceived():
                self._window.set()

    def _take_data(self, event: spdy.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or self._discards:
            self._spdy.acknowledge(event.stream_id, len(event.data))
            return
        self._room.take(len(event.data))
        stream.feed(event.data, fin=event.fin)
        self._forget_if_done(stream)

    def _forget_if_done(self, stream: SpdyStream) -> None:
        if stream.is_done:
            self._streams.pop(stream.stream_id, None)

    def _answer(self) -> None:
        """Send what is due without waiting: a reader that waits for the client to read can wait for ever.

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
