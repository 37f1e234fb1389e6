"""The client's calls on networks: what they ask, what they give, and how they fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.client import Connection, networks
from crib.client.errors import NotFound, NotOffered, WrongState
from crib.stubs.node.v1 import node_pb2 as node
from tests.unit.client.fake_networks import NetworkWorld, serve_networks
from tests.unit.client.fake_runtime import World, serve


@pytest.fixture
def world() -> NetworkWorld:
    return NetworkWorld()


@pytest.fixture
async def connection(world: NetworkWorld, tmp_path: Path) -> AsyncIterator[Connection]:
    server = await serve_networks(f"{tmp_path}/s", world)
    async with Connection(f"unix://{tmp_path}/s") as connection:
        yield connection
    await server.stop(None)


async def test_networks_and_views_are_the_daemons_messages(
    connection: Connection, world: NetworkWorld
) -> None:
    assert await networks.list_networks(connection) == []
    world.networks = [node.Network(name="a"), node.Network(name="b")]
    world.views["p1"] = node.InspectPodNetworkResponse(pod="default/web")
    assert await networks.list_networks(connection) == world.networks
    assert (await networks.inspect(connection, "p1")).pod == "default/web"
    with pytest.raises(NotFound, match="there is no pod p2"):
        await networks.inspect(connection, "p2")


async def test_a_check_gives_a_message_for_each_pod(connection: Connection, world: NetworkWorld) -> None:
    world.found = [node.NetworkCheck(pod="a/b"), node.NetworkCheck(pod="a/c", problem="torn")]
    assert [item async for item in networks.check(connection)] == world.found
    assert [item async for item in networks.check(connection, ["p1"], repair=True)] == world.found
    asked = [(list(request.pod_sandbox_ids), request.repair) for request in world.check_networks]
    assert asked == [([], False), (["p1"], True)]


async def test_garbage_is_told_and_everything_only_taken_when_asked_for(
    connection: Connection, world: NetworkWorld
) -> None:
    world.released = ["address 10.0.0.9 of pod 0001"]
    assert await networks.collect(connection) == world.released
    assert await networks.collect(connection, everything=True) == world.released
    assert world.everything == [False, True]


async def test_a_bridge_with_pods_is_not_removed(connection: Connection, world: NetworkWorld) -> None:
    await networks.remove(connection)
    world.pods_attached = 2
    with pytest.raises(WrongState, match="2 pods are attached"):
        await networks.remove(connection)


async def test_another_runtime_does_not_offer_them(tmp_path: Path) -> None:
    server = await serve(f"{tmp_path}/s", World(), node=False)
    async with Connection(f"unix://{tmp_path}/s") as connection:
        for call in (
            networks.list_networks(connection),
            networks.inspect(connection, "p1"),
            anext(networks.check(connection)),
            networks.collect(connection),
            networks.remove(connection),
        ):
            with pytest.raises(NotOffered, match=r"the runtime at .* does not offer \w*Network"):
                await call
    await server.stop(None)
