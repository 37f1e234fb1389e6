"""SPDY peers that mean harm: memory and work stay bounded, and other clients do not notice."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from crib.streaming.link import UNREAD_BYTES
from crib.tunnel.link import UNSENT_BYTES
from crib.wire import spdy
from crib.wire.remotecommand import Exited
from crib.wire.spdy import frames
from crib.wire.spdy.state import State
from tests.unit.streaming.clients import SpdyClient, WsClient
from tests.unit.streaming.lab import BOUND, Command, Lab, MakeLab, forever, until

V4 = "v4.channel.k8s.io"
PROTOCOL = "portforward.k8s.io"


@pytest.fixture
async def bystander(lab: Lab) -> AsyncIterator[None]:
    """Another client, which is served as ever at the end of the test."""
    yield
    async with asyncio.timeout(BOUND):
        client = await SpdyClient.connect(lab.exec_url(), V4)
        assert await client.outcome(await client.terminal("stdout")) == Exited(0)
        client.close()


async def send_until_stopped(client: SpdyClient, piece: bytes, limit: int, patience: float = 0.5) -> int:
    """Bytes that the server let us send without our reading anything: it closed, or takes no more.

    For the latter there is no sign but that it takes nothing for so many seconds.
    """
    sent = 0
    client.wire.writer.transport.set_write_buffer_limits(0)
    try:
        while sent < limit:
            async with asyncio.timeout(patience):
                await client.wire.send(piece)
            sent += len(piece)
    except (TimeoutError, ConnectionError):
        pass
    return sent


async def test_pings_without_end_to_one_who_does_not_read(lab: Lab, bystander: None) -> None:
    client = await SpdyClient.connect(lab.forward_url(), PROTOCOL)
    pings = b"".join(frames.ping(n | 1) for n in range(20_000))
    await send_until_stopped(client, pings, 1 << 26, BOUND)
    await until(lambda: not lab.server._clients)
    client.close()


async def test_pings_of_a_websocket_without_end_to_one_who_does_not_read(lab: Lab, bystander: None) -> None:
    lab.script = forever
    client = await WsClient.connect(lab.exec_url(), ["v5.channel.k8s.io"])
    ping = b"\x89\xfd" + b"\0" * 4 + b"p" * 125
    client.wire.writer.transport.set_write_buffer_limits(0)
    for _ in range(2_000):
        await client.wire.send(ping * 100)
    link = next(iter(lab.server._clients)).get_coro().cr_frame.f_locals["link"]  # type: ignore[union-attr]
    assert link._transport.get_write_buffer_size() < 2 * UNSENT_BYTES
    client.wire.reset()
    lab.script = lambda command: finished()


async def finished() -> int:
    return 0


async def test_streams_that_are_opened_and_reset_without_end(lab: Lab, bystander: None) -> None:
    client = await SpdyClient.connect(lab.forward_url(), PROTOCOL)
    block = State(False, spdy.Limits()).deflater
    plain = spdy.headers.pack_headers((("streamtype", "data"), ("port", "80")))

    def batch(first: int) -> bytes:
        opened = range(first, first + 2000, 2)
        return b"".join(frames.syn_stream(n, block.deflate(plain)) + frames.rst_stream(n, 5) for n in opened)

    sent = 0
    try:
        for number in range(100):
            async with asyncio.timeout(0.5):
                await client.wire.send(batch(1 + number * 2000))
            sent += 1
            await asyncio.sleep(0)
    except (TimeoutError, ConnectionError):
        pass
    assert sent
    client.wire.reset()
    await until(lambda: not lab.server._clients)
    assert not lab.targets


async def test_more_streams_than_are_allowed_are_refused(make_lab: MakeLab) -> None:
    lab = await make_lab(max_streams=10)
    client = await SpdyClient.connect(lab.forward_url(), PROTOCOL)
    for number in range(12):
        await client.open(("streamtype", "data"), ("port", "80"), ("requestid", str(number)))
    await client.until(lambda: len(client.reset) == 2)
    assert set(client.reset.values()) == {spdy.ResetStatus.REFUSED_STREAM}
    client.close()


async def test_data_for_streams_that_nobody_reads_is_held_within_bounds(lab: Lab, bystander: None) -> None:
    """An error stream has nothing to say for a client."""
    client = await SpdyClient.connect(lab.forward_url(), PROTOCOL)
    _, error = await client.pair(80, "1")
    piece = frames.data_header(error, 1 << 20, False) + bytes(1 << 20)
    sent = await send_until_stopped(client, piece, 1 << 30)
    assert sent < (1 << 27) + UNREAD_BYTES  # the kernel's buffers on both sides, and ours
    client.wire.reset()


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">II", 0x80020001, 0),  # SPDY/2
        struct.pack(">II", 0x80030001, 0xFFFFFF),  # a SYN_STREAM of 16 MiB
        struct.pack(">II", 0x80030004, 1 << 20),  # SETTINGS of 1 MiB
        frames.syn_stream(1, b"no zlib"),
        frames.syn_stream(2, b""),
    ],
)
async def test_a_broken_session_ends_with_goaway_and_runs_nothing(
    lab: Lab, bystander: None, frame: bytes
) -> None:
    client = await SpdyClient.connect(lab.exec_url(), V4)
    await client.wire.send(frame)
    await client.to_end()
    assert any(isinstance(event, spdy.GoAwayReceived) for event in client.seen)
    client.close()
    await until(lambda: not lab.server._clients)
    assert not lab.commands


async def test_a_session_that_breaks_within_a_command_abandons_it(lab: Lab, bystander: None) -> None:
    ended = asyncio.Event()

    async def until_input_ends(command: Command) -> int:
        assert command.stdin is not None
        await command.stdin.read_all()
        ended.set()
        return 0

    lab.script = until_input_ends
    client = await SpdyClient.connect(lab.exec_url("sh", stdin=True, stdout=True), V4)
    await client.terminal("stdin", "stdout")
    await client.wire.send(b"\xff" * 64)
    await client.to_end()
    client.close()
    async with asyncio.timeout(BOUND):
        await ended.wait()
    lab.script = lambda command: finished()


async def test_windows_that_a_client_keeps_are_kept_by_us(lab: Lab) -> None:
    """One that speaks of windows gets no more than it allows, and is told what it may send."""

    async def both(command: Command) -> int:
        assert command.stdin is not None
        await command.say(bytes(200_000))
        total = len(await command.stdin.read_all())
        await command.say(b"%d" % total)
        return 0

    lab.script = both
    client = await SpdyClient.connect(lab.exec_url("sh", stdin=True, stdout=True), V4)
    client.spdy.settings({spdy.Setting.INITIAL_WINDOW_SIZE: 64 << 10})
    await client.flush()
    streams = await client.terminal("stdin", "stdout")
    out = streams["stdout"]
    left = 300_000
    while left:
        size = min(left, client.spdy.window(streams["stdin"]), 30_000)
        if size:
            await client.send(streams["stdin"], bytes(size))
            left -= size
        else:
            await client.until(lambda: client.spdy.window(streams["stdin"]))
        await client.flush()
    await client.send(streams["stdin"], fin=True)

    def take(data: bytes) -> None:
        client._take(data)
        client.wire.writer.write(b"".join(client.spdy.data_to_send()))

    while out not in client.ended:
        take(await client.wire.read())
    assert client.got[out] == bytes(200_000) + b"300000"
    client.close()
