"""The client's end of SPDY, over a carrier that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from crib.tunnel.inbox import Room
from crib.tunnel.spdy import ClientSession
from crib.wire import spdy
from crib.wire.spdy.reader import Buffer

BOUND = 60.0
UNREAD_BYTES = 4 << 20


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
        self.is_full = False

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
    session = ClientSession(carrier, Room(UNREAD_BYTES))
    pump = asyncio.ensure_future(session.run())
    stream = await session.open((("streamtype", "data"),))
    carrier.peer.reply(stream.stream_id)
    carrier.act()
    await session.accepted(stream)
    for _ in range(4):
        carrier.peer.send_data(stream.stream_id, bytes(UNREAD_BYTES))
        carrier.act()
        await settled()
    assert carrier.received == 2
    assert len(await stream.read()) == UNREAD_BYTES
    await settled()
    assert carrier.received == 3
    carrier.abort()
    assert [len(await stream.read()) for _ in range(3)] == [UNREAD_BYTES] * 3
    await pump


async def test_a_ping_is_answered_and_what_does_not_fit_goes_with_the_next_data() -> None:
    carrier = Carrier()
    session = ClientSession(carrier, Room(UNREAD_BYTES))
    pump = asyncio.ensure_future(session.run())
    stream = await session.open((("streamtype", "data"),))
    carrier.peer.reply(stream.stream_id)
    carrier.peer.ping()
    carrier.act()
    await session.accepted(stream)
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
    session = ClientSession(carrier, Room(UNREAD_BYTES))
    pump = asyncio.ensure_future(session.run())
    stream = await session.open((("streamtype", "data"),))
    carrier.peer.reply(stream.stream_id)
    carrier.peer.settings({spdy.Setting.MAX_CONCURRENT_STREAMS: 1})
    carrier.act()
    await session.accepted(stream)
    writing = asyncio.ensure_future(stream.write(bytes(100_000)))
    await settled()

    def came() -> int:
        return sum(len(event.data) for event in carrier.seen if isinstance(event, spdy.DataReceived))

    assert (came(), writing.done()) == (65536, False)
    carrier.peer.acknowledge(stream.stream_id, 65536)
    carrier.act()
    await asyncio.wait_for(writing, BOUND)
    assert came() == 100_000
    with pytest.raises(ConnectionError, match="takes no more"):
        await session.open((("streamtype", "data"),))
    carrier.abort()
    await pump


async def test_a_stream_that_is_refused_and_one_of_the_runtime_s_own() -> None:
    carrier = Carrier()
    session = ClientSession(carrier, Room(UNREAD_BYTES))
    pump = asyncio.ensure_future(session.run())
    stream = await session.open((("streamtype", "data"),))
    carrier.peer.reset(stream.stream_id, spdy.ResetStatus.REFUSED_STREAM)
    carrier.peer.open_stream((("streamtype", "mine"),))
    carrier.act()
    with pytest.raises(ConnectionRefusedError, match="reset the stream"):
        await session.accepted(stream)
    await settled()
    assert isinstance(carrier.seen[-1], spdy.StreamReset)
    with pytest.raises(ConnectionError):
        await stream.write(b"x")
    carrier.abort()
    await pump
