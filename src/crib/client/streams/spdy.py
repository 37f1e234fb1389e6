"""SPDY streams as a client opens them, over one connection (frames: `crib.wire.spdy`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from crib.client.errors import RuntimeFailure, Unavailable
from crib.client.streams.incoming import Incoming, Room
from crib.client.streams.link import Headers, Link, Upgrade, UpgradeRefused, upgrade
from crib.wire import remotecommand, spdy
from crib.wire.remotecommand import CREATION_SECONDS
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

    def abort(self) -> None: ...


class SpdyStream(Incoming):
    """One stream that we opened; nothing may be written before `accepted`."""

    def __init__(self, session: SpdySession, stream_id: int) -> None:
        super().__init__(session.room)
        self.stream_id = stream_id
        self._session = session
        self._is_closed = False
        self.is_accepted = False
        self.replied = asyncio.Event()
        """The runtime took the stream, or refused it."""

    async def accepted(self) -> None:
        """Returns when the runtime has taken the stream. RuntimeFailure when it has not."""
        try:
            async with asyncio.timeout(CREATION_SECONDS):
                await self.replied.wait()
        except TimeoutError:
            raise Unavailable(f"the runtime did not take a stream within {CREATION_SECONDS:g} s") from None
        if not self.is_accepted:
            raise RuntimeFailure(f"the runtime refused a stream: {self.broken}")

    async def write(self, data: Buffer) -> None:
        """Returns when there is room for more. Unavailable when nobody takes it."""
        view = memoryview(data)
        for start in range(0, len(view), WRITE_BYTES):
            await self._session.send_data(self, view[start : start + WRITE_BYTES])

    async def close(self) -> None:
        """No more comes from us. Safe to repeat, also when the stream is over."""
        if not self._is_closed and not self.broken:
            self._is_closed = True
            with contextlib.suppress(Unavailable):  # nobody is there any more, which who closes cannot know
                await self._session.send_data(self, memoryview(b""), fin=True)

    def break_off(self, why: str) -> None:
        super().break_off(why)
        self.replied.set()

    def _taken(self, count: int) -> None:
        self._session.taken(self.stream_id, count)


class SpdySession:
    """The client's side of one connection. `run` reads it and must be running for anything to move."""

    def __init__(self, carrier: Carrier) -> None:
        self.room = Room()
        self._carrier = carrier
        self._spdy = spdy.Connection("client", spdy.Limits())
        self._streams: dict[int, SpdyStream] = {}
        self._window = asyncio.Event()

    async def run(self) -> None:
        """Until the runtime has closed the connection or broken the protocol; then every stream is over."""
        why = "the runtime closed the connection"
        try:
            while not self._spdy.is_over and (data := await self._carrier.receive()):
                for event in self._spdy.receive(data):
                    if isinstance(event, spdy.SessionFailed):
                        why = f"the runtime broke the protocol: {event.reason}"
                    self._take(event)
                self._answer()
                await self.room.wait()
        except ConnectionError as error:
            why = f"the connection broke: {error}"
        finally:
            for stream in self._streams.values():
                stream.break_off(why)
            self._window.set()

    async def open(self, headers: Headers, outcome: Incoming | None = None) -> SpdyStream:
        """Ask for a stream; without an `outcome` it is itself the one that tells it. Unavailable."""
        try:
            stream = SpdyStream(self, self._spdy.open_stream(headers))
            stream.outcome = outcome or stream
            self._streams[stream.stream_id] = stream
            await self._flush()
        except (spdy.SpdyError, ConnectionError) as error:
            raise Unavailable(f"no stream can be opened: {error}") from error
        return stream

    async def send_data(self, stream: SpdyStream, data: memoryview, *, fin: bool = False) -> None:
        """Returns when the runtime has room for more. Unavailable when the stream is over."""
        try:
            while data or fin:
                if stream.broken:
                    raise Unavailable(stream.broken)
                room = min(self._spdy.window(stream.stream_id), len(data))
                if data and not room:
                    self._window.clear()
                    await self._window.wait()
                    continue
                is_last = room == len(data)
                self._spdy.send_data(stream.stream_id, data[:room], fin=fin and is_last)
                fin = fin and not is_last
                data = data[room:]
                await self._flush()
        except (spdy.SpdyError, ConnectionError) as error:
            raise Unavailable(stream.broken or str(error)) from error

    def taken(self, stream_id: int, count: int) -> None:
        """A reader took so many bytes."""
        if not self._spdy.is_over:
            self._spdy.acknowledge(stream_id, count)
            self._answer()

    def _take(self, event: spdy.Event) -> None:
        match event:
            case spdy.StreamReplied():
                if stream := self._streams.get(event.stream_id):
                    stream.is_accepted = True
                    stream.replied.set()
                    self._feed(stream, b"", fin=event.fin)
            case spdy.DataReceived():
                if stream := self._streams.get(event.stream_id):
                    self._feed(stream, event.data, fin=event.fin)
            case spdy.StreamReset():
                if stream := self._streams.pop(event.stream_id, None):
                    stream.break_off(event.reason or "the runtime reset the stream")
                self._window.set()
            case spdy.StreamOpened():
                self._spdy.reset(event.stream_id, spdy.ResetStatus.REFUSED_STREAM)
            case spdy.WindowUpdated() | spdy.SettingsReceived():
                self._window.set()

    @staticmethod
    def _feed(stream: SpdyStream, data: bytes, *, fin: bool) -> None:
        stream.feed(data)
        if fin:
            stream.end()

    def _answer(self) -> None:
        """Send what is due without waiting: a pump that waits for its reader can wait for ever.

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


async def connect(url: str, protocols: Sequence[str], ca_file: str = "") -> Link:
    """A connection that speaks SPDY with one of these versions of what goes over it. UpgradeRefused."""
    offered = tuple((remotecommand.PROTOCOL_HEADER, name) for name in protocols)
    link, answer = await upgrade(url, Upgrade("POST", remotecommand.SPDY_UPGRADE, offered), ca_file)
    name = remotecommand.PROTOCOL_HEADER.lower()
    chosen = [value for key, value in answer if key == name]
    if not set(chosen) & set(protocols):
        link.abort()
        raise UpgradeRefused(f"the runtime speaks {', '.join(chosen) or 'no version'}, not {protocols[0]}")
    return link
