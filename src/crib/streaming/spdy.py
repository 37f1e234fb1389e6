"""SPDY streams as sources and sinks of bytes, over one connection (frames: `crib.wire.spdy`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from crib.streaming.room import Room
from crib.wire import spdy
from crib.wire.spdy.reader import Buffer

WRITE_BYTES = 64 << 10
"""Of one data frame: larger ones would keep other streams of the connection waiting."""


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

    def feed(self, data: bytes, *, fin: bool) -> None:
        """What came from the client."""
        if data:
            self._chunks.append(data)
        self._ended = self._ended or fin
        self._wake.set()

    def break_off(self, why: str) -> int:
        """Nothing more comes or goes. The bytes that nobody read are dropped; how many they were."""
        self.broken = self.broken or why
        self._wake.set()
        return self.drop()

    def drop(self) -> int:
        """Forget what nobody has read; how many bytes it was."""
        return len(self._take_all())

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

    def __init__(self, carrier: Carrier, max_streams: int) -> None:
        self._carrier = carrier
        self._spdy = spdy.Connection("server", spdy.Limits(max_open_streams=max_streams))
        self._streams: dict[int, SpdyStream] = {}
        self._opened: asyncio.Queue[SpdyStream | None] = asyncio.Queue()
        self._room = Room(carrier.has_left)
        self._window = asyncio.Event()
        self._ended = asyncio.Event()
        self._discards = False

    async def run(self) -> None:
        """Until the client has gone or broken the protocol; then every stream is broken off."""
        why = "the client has gone"
        try:
            while not self._spdy.is_over and (data := await self._carrier.receive()):
                for event in self._spdy.receive(data):
                    if isinstance(event, spdy.SessionFailed):
                        why = f"the client broke the protocol: {event.reason}"
                    self._take(event)
                self._answer()
                await self._room.wait()
        except ConnectionError as error:
            why = f"the connection broke: {error}"
        finally:
            self._opened.put_nowait(None)
            for stream in self._streams.values():
                stream.break_off(why)
            self._streams.clear()
            self._window.set()
            self._ended.set()

    async def opened(self) -> SpdyStream | None:
        """The next stream that the client opens; None when there will be none."""
        stream = await self._opened.get()
        if stream is None:
            self._opened.put_nowait(None)
        return stream

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

    def _take(self, event: spdy.Event) -> None:
        match event:
            case spdy.StreamOpened():
                stream = SpdyStream(self, event.stream_id, event.headers)
                self._streams[event.stream_id] = stream
                stream.feed(b"", fin=event.fin)
                self._opened.put_nowait(stream)
            case spdy.DataReceived():
                self._take_data(event)
            case spdy.StreamReset():
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
