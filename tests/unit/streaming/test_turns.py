"""One client among many: what it may hold of the loop, of memory, and of its own connection."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any, cast

import pytest

from crib.streaming.link import UNREAD_BYTES, ClientLink
from crib.tunnel import inbox, websocket
from crib.tunnel import spdy as sessions
from crib.tunnel.inbox import Inbox, Room
from crib.tunnel.link import Link
from crib.tunnel.spdy import ServerSession, SpdyStream
from crib.wire import portforward, spdy
from crib.wire.spdy import frames
from tests.unit.streaming.clients import SpdyClient, TunnelWire, WsClient
from tests.unit.streaming.lab import BOUND, Command, Lab, Target, forever, until

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
PROTOCOL = "portforward.k8s.io"
FLOOD = 20_000


class Full:
    """A connection whose bytes are all there already; then nothing more comes."""

    is_full = False

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = deque(pieces)
        self.emptied = asyncio.Event()

    async def receive(self) -> bytes:
        if not self._pieces:
            self.emptied.set()
            await asyncio.Event().wait()
        return self._pieces.popleft()

    def put(self, data: Sequence[object]) -> None:
        """Nobody reads the answers."""

    async def drain(self) -> None:
        """There is room always."""


async def turns_beside(work: Awaitable[object], done: asyncio.Event) -> int:
    """How often another task had its turn until `done`, of which `work` never tells itself."""
    turns = 0

    async def bystander() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.ensure_future(work)
    async with asyncio.timeout(BOUND):
        await bystander()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return turns


@pytest.mark.parametrize(
    "frame",
    [frames.data_header(1, 0, False), frames.window_update(999, 1), frames.ping(1)],
    ids=["data", "window update", "ping"],
)
async def test_tiny_spdy_frames_leave_others_their_turn(frame: bytes) -> None:
    opening = spdy.Connection("client", spdy.Limits())
    opening.open_stream((("streamtype", "stdin"),))
    carrier = Full(b"".join(opening.data_to_send()), frame * FLOOD)
    session = ServerSession(carrier, Room(UNREAD_BYTES), 1000)
    assert await turns_beside(session.run(), carrier.emptied) >= FLOOD // sessions.TURN_FRAMES


async def test_tiny_spdy_frames_in_tiny_messages_leave_others_their_turn() -> None:
    message = masked(0x82, frames.window_update(999, 1) * 7)
    carrier = Full(message * (FLOOD // 7))
    socket = websocket.WebSocket(cast(Link, carrier), "server")
    session = ServerSession(socket, Room(UNREAD_BYTES), 1000)
    assert await turns_beside(session.run(), carrier.emptied) >= FLOOD // sessions.TURN_FRAMES


@pytest.mark.parametrize("opcode", [0x82, 0x89, 0x8A], ids=["messages", "pings", "pongs"])
async def test_tiny_websocket_frames_leave_others_their_turn(opcode: int) -> None:
    carrier = Full(masked(opcode, b"") * FLOOD)
    socket = websocket.WebSocket(cast(Link, carrier), "server")

    async def read() -> None:
        while await socket.part() is not None:
            pass

    assert await turns_beside(read(), carrier.emptied) >= FLOOD // websocket.TURN_EVENTS


def masked(opcode: int, data: bytes) -> bytes:
    """A client's frame, whose mask changes nothing."""
    return bytes((opcode, 0x80 | len(data))) + bytes(4) + data


# streams that are opened and let go


def kept() -> int:
    """SPDY streams that this process holds in memory."""
    gc.collect()
    return sum(isinstance(one, SpdyStream) for one in gc.get_objects())


async def answered(client: SpdyClient) -> None:
    """Returns when the server has worked off what was sent."""
    number = client.spdy.ping()
    await client.flush()
    await client.until(lambda: spdy.PingAcknowledged(number) in client.seen)
    client.seen.clear()


async def test_streams_that_come_after_those_of_a_terminal_are_refused_and_not_kept(lab: Lab) -> None:
    lab.script = forever
    client = await SpdyClient.connect(lab.exec_url("sh", stdin=True, stdout=True), V4)
    await client.terminal("stdin", "stdout")
    late = await client.open(("streamtype", "stdin"))
    await client.until(lambda: late in client.reset)
    assert client.reset[late] == spdy.ResetStatus.REFUSED_STREAM
    before = kept()
    for _ in range(20):
        for _ in range(50):
            client.spdy.reset(client.spdy.open_stream((("streamtype", "stdout"),)))
        await client.flush()
        await answered(client)
    assert kept() <= before
    client.close()


async def test_streams_that_came_with_those_of_a_terminal_are_reset_too(lab: Lab) -> None:
    lab.script = forever
    client = await SpdyClient.connect(lab.exec_url(), V4)
    kinds = ("error", "stdout", "stdout", "stdin", "nonsense")
    opened = [client.spdy.open_stream((("streamtype", kind),)) for kind in kinds]
    await client.flush()
    await client.until(lambda: set(opened[2:]) <= client.reset.keys())
    assert set(opened[:2]) <= client.replied
    client.close()


async def test_streams_that_are_reset_before_anybody_took_them_are_not_kept() -> None:
    opening = spdy.Connection("client", spdy.Limits())
    for _ in range(500):
        opening.reset(opening.open_stream((("streamtype", "data"),)))
    last = opening.open_stream((("streamtype", "error"),))
    carrier = Full(b"".join(opening.data_to_send()))
    session = ServerSession(carrier, Room(UNREAD_BYTES), 1000)
    running = asyncio.ensure_future(session.run())
    async with asyncio.timeout(BOUND):
        await carrier.emptied.wait()
    stream = await session.opened()
    assert stream is not None
    assert stream.stream_id == last
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await session.opened() is None


# input in tiny pieces


def test_tiny_pieces_of_input_cost_little_more_than_their_bytes() -> None:
    one = Inbox()
    data = bytes(range(256)) * 400
    for at in range(0, len(data), 2):
        one.feed(data[at : at + 2])
    assert b"".join(one._pieces) == data
    assert sum(map(sys.getsizeof, one._pieces)) < 1.2 * len(data)


# one stream that nobody reads


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(inbox, "STUCK_SECONDS", 0.1)


async def over_spdy(lab: Lab) -> SpdyClient:
    return await SpdyClient.connect(lab.forward_url(), PROTOCOL)


async def through_tunnel(lab: Lab) -> SpdyClient:
    socket = await WsClient.connect(lab.forward_url(), [portforward.TUNNEL_PROTOCOL])
    return SpdyClient(TunnelWire(socket), {})


async def pieces(client: SpdyClient, stream: int, count: int) -> None:
    for _ in range(count):
        await client.send(stream, bytes(64 << 10))


@pytest.mark.parametrize("connect", [over_spdy, through_tunnel])
async def test_an_upload_that_nobody_reads_does_not_hold_up_other_connections_for_ever(
    lab: Lab, impatient: None, connect: Any
) -> None:
    async def serve(target: Target) -> None:
        if target.address.port == 81:
            await target.aborted.wait()
        while data := await target.inbox.read():
            await target.outbox.write(data)

    lab.serve_target = serve
    client = await connect(lab)
    good, _ = await client.pair(80, "1")
    stuck, _ = await client.pair(81, "2")
    sending = asyncio.ensure_future(pieces(client, stuck, 2 * UNREAD_BYTES >> 16))
    await client.until(lambda: stuck in client.reset)
    await sending
    await client.send(good, b"still here")
    await client.until(lambda: client.got[good] == b"still here")
    new, _ = await client.pair(82, "3")
    await client.send(new, b"new")
    await client.until(lambda: client.got[new] == b"new")
    await until(lab.targets[1].aborted.is_set)
    client.close()


async def test_the_input_of_a_command_waits_as_long_as_it_must(
    lab: Lab, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has nobody to hold up."""
    looks, may_read = 0, asyncio.Event()

    def has_left(link: ClientLink) -> bool:
        nonlocal looks
        looks += 1
        if looks > 10:
            may_read.set()
        return False

    async def late(command: Command) -> int:
        assert command.stdin is not None
        await may_read.wait()
        await command.say(b"%d" % len(await command.stdin.read_all()))
        return 0

    monkeypatch.setattr(ClientLink, "has_left", has_left)
    lab.script = late
    client = await SpdyClient.connect(lab.exec_url("sh", stdin=True, stdout=True), V4)
    streams = await client.terminal("stdin", "stdout")
    await pieces(client, streams["stdin"], 2 * UNREAD_BYTES >> 16)
    await client.send(streams["stdin"], fin=True)
    await client.outcome(streams)
    assert client.got[streams["stdout"]] == b"%d" % (2 * UNREAD_BYTES)
    client.close()


async def test_a_room_is_stuck_only_when_nothing_at_all_was_given_out(impatient: None) -> None:
    looks: list[int] = []
    stuck = asyncio.Event()

    def has_left() -> bool:
        looks.append(1)
        if len(looks) == 3:  # of five: the third is the first of five again
            one.give(1)
            one.take(1)
        return False

    one = Room(UNREAD_BYTES, has_left)
    one.when_stuck(stuck.set)
    one.take(UNREAD_BYTES)
    waiting = asyncio.ensure_future(one.wait())
    async with asyncio.timeout(BOUND):
        await stuck.wait()
    assert len(looks) == 7
    assert not waiting.done()
    one.give(1)
    await waiting
