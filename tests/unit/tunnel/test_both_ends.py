"""The client's end of a tunnel and the server's, over a pair of sockets: what one sends, the other gets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from crib.tunnel.inbox import Inbox, Room
from crib.tunnel.link import Link
from crib.tunnel.spdy import ClientSession, ServerSession, SpdyStream
from crib.tunnel.websocket import Channels, WebSocket
from crib.wire import channel_messages as messages

BOUND = 60.0
SERVER_BYTES, CLIENT_BYTES = 1 << 20, 4 << 20
HEADERS = (("streamtype", "data"),)

Wrap = Callable[[Link, Link], tuple[Link | WebSocket, Link | WebSocket]]


def plainly(client: Link, server: Link) -> tuple[Link, Link]:
    return client, server


def in_messages(client: Link, server: Link) -> tuple[WebSocket, WebSocket]:
    return WebSocket(client, "client"), WebSocket(server, "server")


@contextlib.asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, Link]]:
    made: list[Link] = []
    for end in socket.socketpair():
        end.setblocking(False)
        _, link = await asyncio.get_running_loop().create_connection(Link, sock=end)
        made.append(link)
    client, server = made
    async with asyncio.timeout(BOUND):
        yield client, server
    client.abort()
    server.abort()


@contextlib.asynccontextmanager
async def sessions(wrap: Wrap) -> AsyncIterator[tuple[ClientSession, ServerSession, Link, Link]]:
    async with linked() as (client_link, server_link):
        client_end, server_end = wrap(client_link, server_link)
        client = ClientSession(client_end, Room(CLIENT_BYTES))
        server = ServerSession(server_end, Room(SERVER_BYTES), 100)
        async with asyncio.TaskGroup() as group:
            group.create_task(client.run())
            group.create_task(server.run())
            yield client, server, client_link, server_link
            client_link.abort()
            server_link.abort()


async def opened(client: ClientSession, server: ServerSession) -> tuple[SpdyStream, SpdyStream]:
    ours = await client.open(HEADERS)
    theirs = await server.opened()
    assert theirs is not None
    theirs.accept()
    await client.accepted(ours)
    return ours, theirs


async def whole(inbox: Inbox) -> bytes:
    return b"".join([data async for data in inbox])


async def send(stream: SpdyStream, data: bytes) -> None:
    await stream.write(data)
    await stream.close()
    await stream.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0)


def living_streams() -> list[SpdyStream]:
    return [one for one in gc.get_objects() if isinstance(one, SpdyStream)]


over = pytest.mark.parametrize("wrap", [plainly, in_messages], ids=["link", "websocket"])


@over
async def test_spdy_carries_bytes_both_ways_to_their_ends_and_forgets_the_stream(wrap: Wrap) -> None:
    up, down = os.urandom(3 << 20), os.urandom(3 << 20)
    of_others = living_streams()  # held, so that no new one is taken for one of these
    async with sessions(wrap) as (client, server, _, _):
        ours, theirs = await opened(client, server)
        assert theirs.headers == HEADERS
        got = await asyncio.gather(send(ours, up), send(theirs, down), whole(theirs), whole(ours))
        assert tuple(got[2:]) == (up, down)
        with pytest.raises(BrokenPipeError):
            await ours.write(b"x")
        del ours, theirs, got
        assert [one for one in living_streams() if all(one is not other for other in of_others)] == []


@over
@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_reader_that_is_late_holds_up_the_writer(wrap: Wrap, way: str) -> None:
    """More than both ends and the kernel hold together."""
    data = bytes(32 << 20)
    async with sessions(wrap) as (client, server, client_link, server_link):
        ours, theirs = await opened(client, server)
        writer, reader = (ours, theirs) if way == "up" else (theirs, ours)
        writer_link = client_link if way == "up" else server_link
        writing = asyncio.ensure_future(send(writer, data))
        limit = SERVER_BYTES if way == "up" else CLIENT_BYTES
        await until(lambda: reader.size >= limit and writer_link.is_full)
        for _ in range(1000):  # all that can go on without a reader has
            await asyncio.sleep(0)
        assert not writing.done()
        assert reader.size < limit + (1 << 20)
        assert await whole(reader) == data
        await writing


@over
async def test_what_a_server_said_outlasts_its_connection_and_what_a_client_said_does_not(wrap: Wrap) -> None:
    """A command that has read a part of its input must not take it for the whole."""
    async with sessions(wrap) as (client, server, client_link, _):
        ours, theirs = await opened(client, server)
        await send(ours, b"asked")
        await send(theirs, b"answered")
        await until(lambda: theirs.has_ended and ours.has_ended)
        client_link.abort()
        await asyncio.gather(client.ended(), server.ended())
        assert await whole(ours) == b"answered"
        with pytest.raises(ConnectionError):
            await theirs.read()


@over
async def test_a_stream_that_one_end_resets_is_broken_at_the_other(wrap: Wrap) -> None:
    async with sessions(wrap) as (client, server, _, _):
        ours, theirs = await opened(client, server)
        broken = asyncio.Event()
        ours.when_broken(broken.set)
        theirs.abort()
        await broken.wait()
        for use in (ours.read(), ours.write(b"x")):
            with pytest.raises(ConnectionResetError, match="the runtime reset the stream"):
                await use
        ours, theirs = await opened(client, server)
        ours.abort()
        with pytest.raises(ConnectionResetError, match="the client reset the stream"):
            await theirs.read()


PROTOCOLS = [messages.V5, messages.V4, messages.CHANNEL, messages.BASE64, messages.V4_BASE64]


@contextlib.asynccontextmanager
async def channels(protocol: messages.ChannelProtocol) -> AsyncIterator[tuple[Channels, Channels]]:
    async with linked() as links:
        client, server = (
            Channels(end, protocol, (0, 1), Room(size))
            for end, size in zip(in_messages(*links), (CLIENT_BYTES, SERVER_BYTES), strict=True)
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(client.run())
            group.create_task(server.run())
            yield client, server
            for link in links:
                link.abort()


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("size", [1, 124, 125, 65535, 65536, 3 << 20])
async def test_channels_carry_bytes_both_ways(protocol: messages.ChannelProtocol, size: int) -> None:
    up, down = os.urandom(size), os.urandom(size)

    async def read(inbox: Inbox) -> bytes:
        got = b""
        while len(got) < size:
            got += await inbox.read()
        return got

    async with channels(protocol) as (client, server):
        got = await asyncio.gather(
            client.by_number[1].write(up),
            server.by_number[1].write(down),
            read(server.by_number[1]),
            read(client.by_number[1]),
        )
        assert tuple(got[2:]) == (up, down)


async def test_a_client_ends_a_channel_where_the_protocol_can_and_a_server_all_by_closing() -> None:
    async with channels(messages.V5) as (client, server):
        await client.by_number[0].write(b"asked")
        await client.by_number[0].close()
        await client.by_number[0].close()
        assert await whole(server.by_number[0]) == b"asked"
        await server.by_number[1].write(b"answered")
        await server.by_number[1].close()
        server.socket.close()
        assert await whole(client.by_number[1]) == b"answered"
        await asyncio.gather(client.ended(), server.ended())
        with pytest.raises(ConnectionError):
            await server.by_number[1].write(b"x")


async def test_a_client_that_closes_in_order_has_gone_all_the_same() -> None:
    async with channels(messages.V5) as (client, server):
        client.socket.close()
        with pytest.raises(ConnectionResetError, match="the client closed the connection"):
            await server.by_number[0].read()


async def test_a_server_that_goes_away_has_not_ended_its_channels() -> None:
    async with channels(messages.V5) as (client, server):
        server.socket.close(1001, "it stops")
        with pytest.raises(ConnectionResetError, match="closed with code 1001: it stops"):
            await client.by_number[0].read()
