"""Connections into a pod as a client."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Literal

import pytest

from crib.client import Connection, streams
from crib.client.errors import NotOffered, RuntimeFailure, Unavailable
from crib.client.streams import ForwardedConnection
from crib.model.streams import PodAddress
from crib.stubs.node.v1.node_pb2 import ForwardRequest
from crib.wire.portforward import Target
from tests.unit.client.fake_runtime import World, serve
from tests.unit.streaming.lab import BOUND, Lab
from tests.unit.streaming.lab import Target as PodEnd

WEB = Target("tcp", 80)


async def exchanged(peer: ForwardedConnection, data: bytes) -> bytes:
    """What comes back of what is sent to its end."""

    async def send() -> None:
        await peer.write(data)
        await peer.close()

    async def receive() -> bytes:
        return b"".join([part async for part in peer])

    async with asyncio.timeout(BOUND):
        _, found = await asyncio.gather(send(), receive())
    return found


async def test_both_ways_have_an_end_of_their_own(
    lab: Lab, connection: Connection, transport: Literal["websocket", "spdy"]
) -> None:
    data = os.urandom(1 << 20)
    async with streams.forward(connection, lab.pod.id, WEB, transport) as peer:
        assert await exchanged(peer, data) == data
    assert lab.targets[0].address == PodAddress("tcp", 80)


async def test_where_tunnels_are_refused_spdy_is_spoken(older_lab: Lab, connection: Connection) -> None:
    async with streams.forward(connection, older_lab.pod.id, WEB) as peer:
        assert await exchanged(peer, b"hello") == b"hello"


async def test_a_refused_connection_is_told_in_the_runtime_s_words(
    lab: Lab, connection: Connection, transport: Literal["websocket", "spdy"]
) -> None:
    lab.refused.add(80)
    async with streams.forward(connection, lab.pod.id, WEB, transport) as peer:
        with pytest.raises(RuntimeFailure, match="connecting to tcp:80: connection refused"):
            await peer.read()
        with pytest.raises(RuntimeFailure, match="connection refused"):
            await peer.write(b"x")


async def test_who_does_not_read_holds_up_nobody_else(lab: Lab, connection: Connection) -> None:
    async def flood(target: PodEnd) -> None:
        if target.address.port == 81:
            while True:
                await target.outbox.write(bytes(1 << 16))
        while data := await target.inbox.read():
            await target.outbox.write(data)

    lab.serve_target = flood
    async with (
        streams.forward(connection, lab.pod.id, Target("tcp", 81)),
        streams.forward(connection, lab.pod.id, WEB) as peer,
    ):
        assert await exchanged(peer, b"hello") == b"hello"


async def test_a_connection_that_breaks_is_no_end(lab: Lab, connection: Connection) -> None:
    async def speak(target: PodEnd) -> None:
        await target.outbox.write(b"half")
        await asyncio.Event().wait()

    lab.serve_target = speak
    async with streams.forward(connection, lab.pod.id, WEB) as peer:
        assert await peer.read() == b"half"
        await lab.server.stop()
        with pytest.raises((Unavailable, RuntimeFailure)):
            await peer.read()


async def test_what_only_crib_forwards_is_asked_of_its_own_service(
    lab: Lab, world: World, connection: Connection
) -> None:
    target = Target("unix", container="box", path="/run/x.sock")
    async with streams.forward(connection, lab.pod.id, target) as peer:
        assert await exchanged(peer, b"hello") == b"hello"
    assert lab.targets[0].address == PodAddress("unix", 0, "box", "/run/x.sock")
    request = world.forward_requests[0]
    assert isinstance(request, ForwardRequest)
    assert list(request.targets) == ["unix:box:/run/x.sock"]


async def test_another_runtime_does_not_offer_it(world: World, tmp_path: Path) -> None:
    server = await serve(f"{tmp_path}/s", world, node=False)
    async with Connection(f"{tmp_path}/s") as connection:
        with pytest.raises(NotOffered, match="does not offer Forward"):
            await streams.forward_url(connection, "pod", [Target("udp", 53)])
    await server.stop(None)


async def test_a_reset_by_the_pod_is_no_end_and_no_failure_of_the_runtime(
    lab: Lab, connection: Connection, transport: Literal["websocket", "spdy"]
) -> None:
    async def reset(target: PodEnd) -> None:
        await target.outbox.write(b"half")
        await target.inbox.read()
        await target.outbox.break_off(ConnectionResetError(104, "Connection reset by peer"))

    lab.serve_target = reset
    async with asyncio.timeout(BOUND), streams.forward(connection, lab.pod.id, WEB, transport) as peer:
        assert await peer.read() == b"half"
        await peer.write(b"x")
        with pytest.raises(Unavailable, match="the runtime reset the stream"):
            await peer.read()
