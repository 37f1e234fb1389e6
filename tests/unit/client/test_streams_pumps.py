"""The client's pumps alone, with a carrier that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from crib.client.errors import RuntimeFailure, Unavailable
from crib.client.streams.incoming import UNREAD_BYTES
from crib.client.streams.spdy import SpdySession
from crib.client.streams.websocket import Channels, Part
from crib.wire import spdy
from crib.wire.spdy.reader import Buffer

BOUND = 60.0


class Carrier:
    """The runtime's end is `peer`; `put` gets there at once, unless it is full."""

    def __init__(self, windows: spdy.Windows = spdy.Windows.ON_SIGN) -> None:
        self.peer = spdy.Connection("server", spdy.Limits(windows=windows))
        self.seen: list[spdy.Event] = []
        self.is_full = False
        self.received = 0
        self._wake = asyncio.Event()
        self._closed = False

    async def receive(self) -> bytes:
        while True:
            self._wake.clear()
            if data := b"".join(self.peer.data_to_send()):
                self.received += 1
                return data
            if self._closed:
                return b""
            await self._wake.wait()

    def put(self, data: Sequence[Buffer]) -> None:
        for piece in data:
            self.seen += self.peer.receive(piece)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def abort(self) -> None:
        self._closed = True
        self._wake.set()

    def act(self) -> None:
        """The peer has something to send."""
        self._wake.set()


async def settled() -> None:
    """All that can go on without us has."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_socket_is_not_read_while_too_much_is_unread() -> None:
    carrier = Carrier()
    session = SpdySession(carrier)
    pump = asyncio.ensure_future(session.run())
    stream = await session.open((("streamtype", "data"),))
    carrier.peer.reply(stream.stream_id)
    carrier.act()
    await stream.accepted()
    for _ in range(4):
        carrier.peer.send_data(stream.stream_id, bytes(UNREAD_BYTES))
        carrier.act()
        await settled()
    assert carrier.received == 2
    assert len(await stream.read()) == UNREAD_BYTES
    await settled()
    assert carrier.received == 3
    carrier.abort()
    assert len(await stream.read()) == 3 * UNREAD_BYTES
    await pump


async def test_a_ping_is_answered_and_what_does_not_fit_goes_with_the_next_data() -> None:
    carrier = Carrier()
    session = SpdySession(carrier)
    pump = asyncio.ensure_future(session.run())
    stream = await session.open((("streamtype", "data"),))
    carrier.peer.reply(stream.stream_id)
    carrier.peer.ping()
    carrier.act()
    await stream.accepted()
    await settled()
    assert isinstance(carrier.seen[-1], spdy.PingAcknowledged)
    carrier.seen.clear()
    carrier.is_full = True
    carrier.peer.ping()
    carrier.act()
    await settled()
    assert carrier.seen == []
    await stream.write(b"x")
    assert {type(event) for event in carrier.seen} == {spdy.PingAcknowledged, spdy.DataReceived}
    carrier.abort()
    await pump


async def test_a_window_that_the_runtime_keeps_is_obeyed() -> None:
    carrier = Carrier(spdy.Windows.ALWAYS)
    session = SpdySession(carrier)
    pump = asyncio.ensure_future(session.run())
    stream = await session.open((("streamtype", "data"),))
    carrier.peer.reply(stream.stream_id)
    carrier.peer.settings({spdy.Setting.MAX_CONCURRENT_STREAMS: 1})
    carrier.act()
    await stream.accepted()
    writing = asyncio.ensure_future(stream.write(bytes(100_000)))
    await settled()

    def came() -> int:
        return sum(len(event.data) for event in carrier.seen if isinstance(event, spdy.DataReceived))

    assert (came(), writing.done()) == (65536, False)
    carrier.peer.acknowledge(stream.stream_id, 65536)
    carrier.act()
    await asyncio.wait_for(writing, BOUND)
    assert came() == 100_000
    with pytest.raises(Unavailable, match="takes no more"):
        await session.open((("streamtype", "data"),))
    carrier.abort()
    await pump


async def test_a_stream_that_is_refused_and_one_of_the_runtime_s_own() -> None:
    carrier = Carrier()
    session = SpdySession(carrier)
    pump = asyncio.ensure_future(session.run())
    stream = await session.open((("streamtype", "data"),))
    carrier.peer.reset(stream.stream_id, spdy.ResetStatus.REFUSED_STREAM)
    carrier.peer.open_stream((("streamtype", "mine"),))
    carrier.act()
    with pytest.raises(RuntimeFailure, match="refused a stream"):
        await stream.accepted()
    await settled()
    assert isinstance(carrier.seen[-1], spdy.StreamReset)
    with pytest.raises(Unavailable):
        await stream.write(b"x")
    carrier.abort()
    await pump


class Socket:
    """Parts that come, as a WebSocket gives them."""

    def __init__(self, *parts: Part) -> None:
        self._parts = parts

    async def parts(self):  # type: ignore[no-untyped-def]  # an iterator of parts
        for part in self._parts:
            yield part


async def channels_after(*parts: Part) -> Channels:
    channels = Channels(Socket(*parts), (1, 3))  # type: ignore[arg-type]  # it has what is needed
    await asyncio.wait_for(channels.run(), BOUND)
    return channels


async def test_messages_are_put_together_wherever_they_are_cut() -> None:
    channels = await channels_after(
        Part(b"", False),
        Part(b"\x01a", False),
        Part(b"b", True),
        Part(b"\x07not ours", True),
        Part(b"", True),
        Part(b"\x01", True),
        Part(b"\x03\xff", False),
        Part(b"\xff\x01", True),
        Part(b"\xff", False),
        Part(b"\x01", True),
        Part(b"\x01late", True),
    )
    assert await channels.by_number[1].read() == b"ablate"
    assert await channels.by_number[1].read() == b""
    assert await channels.by_number[3].read() == b"\xff\xff\x01"


@pytest.mark.parametrize(
    "parts",
    [
        (Part(b"\xff\x01\x02", True),),
        (Part(b"\xff", True),),
        (Part(b"\xff\x01", False), Part(b"x", True)),
        (Part(b"P", True),),
    ],
)
async def test_a_malformed_message_breaks_all_channels(parts: tuple[Part, ...]) -> None:
    channels = await channels_after(*parts)
    with pytest.raises(Unavailable, match="the connection broke"):
        await channels.by_number[1].read()
