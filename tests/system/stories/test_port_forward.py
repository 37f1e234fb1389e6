"""Port-forward at the real daemon: many connections, broken ones, ends of either side; and `crib forward`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import pytest

from crib.client import streams
from crib.client.errors import RuntimeFailure, Unavailable
from crib.client.streams import ForwardedConnection
from crib.client.streams.link import connect_spdy, connect_websocket
from crib.client.streams.runtime_stream import UNREAD_BYTES, open_streams
from crib.client.streams.session import running
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.tunnel.inbox import Room
from crib.tunnel.spdy import ClientSession
from crib.wire import portforward
from crib.wire.portforward import StreamKind, Target, stream_headers
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.stream_lab import (
    BOUND,
    TRANSPORTS,
    Client,
    Transport,
    box_in,
    crib,
    echo,
    nothing_kept,
    pod_server,
    pod_socket,
    rest,
)

pytestmark = [pytest.mark.root, pytest.mark.system]

both_ways = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with nothing_kept(cribd), cribd.story() as connection:
        yield connection


@both_ways
async def test_fifty_connections_at_once_have_each_their_own(
    cri: Cri, cribd: Cribd, transport: Transport
) -> None:
    pod, _ = await box_in(cri, "box")

    async def one(number: int) -> None:
        data = b"%d " % number * 10_000
        async with streams.forward(cri.connection, pod.id, Target("tcp", 4001), transport) as peer:

            async def send() -> None:
                await peer.write(data)
                await peer.close()

            sending = asyncio.ensure_future(send())
            assert await rest(peer) == data
            await sending

    async with pod_server(cribd, pod, 4001, echo), asyncio.timeout(BOUND):
        await asyncio.gather(*(one(number) for number in range(50)))


@both_ways
async def test_what_refuses_or_breaks_a_connection_is_told_and_spares_others(
    cri: Cri, cribd: Cribd, transport: Transport
) -> None:
    pod, _ = await box_in(cri, "box")

    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def to(port: int) -> AbstractAsyncContextManager[ForwardedConnection]:
        return streams.forward(cri.connection, pod.id, Target("tcp", port), transport)

    async with pod_server(cribd, pod, 4001, echo), pod_server(cribd, pod, 4002, reset), to(4001) as good:
        async with to(4002) as broken:
            with pytest.raises((RuntimeFailure, Unavailable), match="reset"):  # also within the connecting
                await broken.read()
        async with to(4003) as refused:
            with pytest.raises(RuntimeFailure, match="refused"):
                await refused.read()
        await good.write(b"still here")
        assert await _so_much(good, 10) == b"still here"


@both_ways
async def test_one_session_carries_many_connections_as_kubectl_has_it(
    cri: Cri, cribd: Cribd, transport: Transport
) -> None:
    pod, _ = await box_in(cri, "box")
    url = (await cri.call(cri.runtime.PortForward, pb.PortForwardRequest(pod_sandbox_id=pod.id))).url
    carrier = (
        await connect_spdy(url, (portforward.PROTOCOL,))
        if transport == "spdy"
        else await connect_websocket(url, portforward.TUNNEL_PROTOCOL)
    )
    session = ClientSession(carrier, Room(UNREAD_BYTES))

    async def opened(port: int, number: int) -> ForwardedConnection:
        kinds = (StreamKind.ERROR, StreamKind.DATA)
        wanted = [stream_headers(kind, Target("tcp", port), str(number)) for kind in kinds]
        error, data = await open_streams(session, wanted)
        await error.close()
        return ForwardedConnection(data, error)

    async with pod_server(cribd, pod, 4001, echo), running(session.run(), carrier.abort):
        async with asyncio.timeout(BOUND):
            peers = [await opened(4001, number) for number in range(20)]
            refused = await opened(4002, 20)
            with pytest.raises(RuntimeFailure, match="refused"):
                await refused.read()
            for number, peer in enumerate(peers):
                await peer.write(b"%d" % number)
                await peer.close()
            assert [await rest(peer) for peer in peers] == [b"%d" % number for number in range(20)]


@both_ways
async def test_each_side_of_a_connection_may_end_first(cri: Cri, cribd: Cribd, transport: Transport) -> None:
    pod, _ = await box_in(cri, "box")

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d\n" % len(await reader.read()))
        writer.close()
        await writer.wait_closed()

    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.write_eof()
        got.set_result(await reader.read())

    async with pod_server(cribd, pod, 4001, count), pod_server(cribd, pod, 4002, greet):
        async with streams.forward(cri.connection, pod.id, Target("tcp", 4001), transport) as peer:
            await peer.write(b"x" * 100_000)
            await peer.close()
            assert await rest(peer) == b"100000\n"
        async with streams.forward(cri.connection, pod.id, Target("tcp", 4002), transport) as peer:
            assert await rest(peer) == b"hello\n"
            await peer.write(b"late")
            await peer.close()
            assert await asyncio.wait_for(got, BOUND) == b"late"


async def test_a_killed_client_ends_the_connection_in_the_pod(cri: Cri, cribd: Cribd) -> None:
    pod, _ = await box_in(cri, "box")
    ended = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        try:
            await reader.read()
        finally:
            ended.set()

    async with pod_server(cribd, pod, 4001, watch), crib(cribd, "forward", "box", "0:4001") as client:
        reader, writer = await asyncio.open_connection(*await _listens(client))
        assert await reader.readexactly(5) == b"hello"
        await client.kill()
        await asyncio.wait_for(ended.wait(), BOUND)
        writer.transport.abort()


@both_ways
async def test_a_pod_that_is_stopped_ends_its_connections(
    cri: Cri, cribd: Cribd, transport: Transport
) -> None:
    server = "while true; do busybox nc -l -p 4001 -e cat; done"
    pod, box = await box_in(cri, "box", "sh", "-c", server)
    await cri.sh(box, "until busybox netstat -ltn | grep -q :4001; do :; done")
    async with streams.forward(cri.connection, pod.id, Target("tcp", 4001), transport) as peer:
        await peer.write(b"hello")
        assert await _so_much(peer, 5) == b"hello"
        await cri.stop_pod(pod)
        async with asyncio.timeout(BOUND):
            # Whether it ends well is up to what dies first there.
            with contextlib.suppress(RuntimeFailure, Unavailable):
                assert await rest(peer) == b""


async def _so_much(peer: ForwardedConnection, size: int) -> bytes:
    """What comes, at least so many bytes."""
    found = b""
    async with asyncio.timeout(BOUND):
        while len(found) < size:
            data = await peer.read()
            assert data, f"it ended with {found!r}"
            found += data
    return found


async def _listens(client: Client) -> tuple[str, int]:
    """Where `crib forward` listens, as it says."""
    said = await client.seen(b" -> ")
    match = re.search(rb"Forwarding from ([\d.]+):(\d+) -> ", said)
    assert match, said
    return match[1].decode(), int(match[2])


async def test_datagrams_reach_a_pod_and_answers_come_back(cri: Cri, cribd: Cribd) -> None:
    pod, _ = await box_in(cri, "box")
    loop = asyncio.get_running_loop()
    with pod_socket(cribd, pod, socket.SOCK_DGRAM, 5353) as server:
        async with crib(cribd, "forward", "box", "0:udp:5353") as client:
            where = await _listens(client)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
                ours.setblocking(False)
                ours.connect(where)
                for said in (b"one", b"", b"x" * 9000):
                    await loop.sock_sendall(ours, said)
                    async with asyncio.timeout(BOUND):
                        data, back = await loop.sock_recvfrom(server, 1 << 16)
                        assert data == said
                        await loop.sock_sendto(server, b"<" + data + b">", back)
                        assert await loop.sock_recv(ours, 1 << 16) == b"<" + said + b">"
            code, _ = await client.end(signal.SIGINT)
            assert code in (-signal.SIGINT, 128 + signal.SIGINT)


def _pids_of(cribd: Cribd, command: str) -> list[int]:
    """Processes in containers that run it."""
    found = (line.strip().split(" ", 1) for line in cribd.leftovers().processes)
    return [int(pid) for pid, words in found if words == command]


async def test_a_unix_socket_in_a_container_is_reached_and_only_there(cri: Cri, cribd: Cribd) -> None:
    _, box = await box_in(cri, "box")
    # a start returns when the runtime's own process is about to become the container's
    await until(lambda: _pids_of(cribd, "sleep 100000"))
    (pid,) = _pids_of(cribd, "sleep 100000")
    root = os.open(f"/proc/{pid}/root/tmp", os.O_PATH)
    try:
        server = await asyncio.start_unix_server(echo, f"/proc/self/fd/{root}/echo.sock")
    finally:
        os.close(root)
    async with server, crib(cribd, "forward", "box", "0:unix:box:/tmp/echo.sock") as client:
        reader, writer = await asyncio.open_connection(*await _listens(client))
        writer.write(b"hello")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), BOUND) == b"hello"
        writer.close()
        await writer.wait_closed()
    # a link to a socket of the host leads nowhere
    await cri.sh(box, f"ln -s {cribd.socket} /tmp/host.sock")
    async with crib(cribd, "forward", "box", "0:unix:box:/tmp/host.sock") as client:
        reader, writer = await asyncio.open_connection(*await _listens(client))
        assert await asyncio.wait_for(reader.read(), BOUND) == b""
        await client.seen(b"No such file")
        writer.transport.abort()
