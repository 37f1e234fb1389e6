"""The Node service's calls on networks, through a real server with a fake node behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc import aio

from crib.api.server import Server
from crib.engine.node import Node
from crib.model.errors import NotFound, WrongState
from crib.model.network import InterfaceView, NetworkCheck, NetworkInfo, PodNetworkView
from crib.model.sandbox import SandboxRecord
from crib.model.settings import Settings
from crib.stubs.node.v1 import node_pb2 as pb
from crib.stubs.node.v1 import node_pb2_grpc
from tests.unit.api.fake_node import FakeNode, sandbox


class FakeNetworks:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.raises: Exception | None = None

    async def list(self) -> Sequence[NetworkInfo]:
        await asyncio.sleep(0)
        return [NetworkInfo("crib0", "bridge", "settings", "eth0", 1)]

    async def view(self, record: SandboxRecord) -> PodNetworkView:
        await asyncio.sleep(0)
        self.calls.append(("view", record.id))
        return PodNetworkView(interfaces=(InterfaceView("eth0", "", 1500, True, ()),))

    async def check(self, wanted: Sequence[str], *, repair: bool) -> AsyncIterator[NetworkCheck]:
        await asyncio.sleep(0)
        self.calls.append(("check", tuple(wanted), repair))
        yield NetworkCheck(sandbox().id, "space/pod1", "")
        if self.raises is not None:
            raise self.raises
        yield NetworkCheck(sandbox(2).id, "space/pod2", "down", repaired=repair)

    async def collect(self, *, everything: bool) -> Sequence[str]:
        await asyncio.sleep(0)
        self.calls.append(("collect", everything))
        return ("address 10.0.0.9",)

    async def remove(self) -> None:
        await asyncio.sleep(0)
        self.calls.append(("remove",))
        if self.raises is not None:
            raise self.raises


@pytest.fixture
def networks() -> FakeNetworks:
    return FakeNetworks()


@pytest.fixture
async def client(tmp_path: Path, networks: FakeNetworks) -> AsyncIterator[Any]:
    node = FakeNode(Settings(data=str(tmp_path / "data"), state=str(tmp_path / "state")))
    sandboxes = SimpleNamespace(get=node.sandboxes.get, netns=lambda record: f"/netns/{record.id[:4]}")
    fake = SimpleNamespace(
        describe=node.describe,
        insight=node.insight,
        settings=node.settings,
        events=node.events,
        history=node.history,
        admission=node.admission,
        streams=node.streams,
        sandboxes=sandboxes,
        networks=networks,
        notices=node.notices,
    )
    server = Server(cast(Node, fake), "9.9", lambda kind, token: f"http://{kind}/{token}")
    await server.start()
    server.gate.open()
    async with aio.insecure_channel(f"unix:{node.settings.socket_path}") as channel:
        yield node_pb2_grpc.NodeStub(channel)
    await server.stop(0)


async def test_networks_are_listed(client: Any) -> None:
    answer = await client.ListNetworks(pb.ListNetworksRequest())
    (told,) = answer.networks
    assert (told.name, told.kind, told.attached) == ("crib0", "bridge", 1)


async def test_a_pods_network_is_found_by_the_beginning_of_its_id(
    client: Any, networks: FakeNetworks
) -> None:
    told = await client.InspectPodNetwork(pb.InspectPodNetworkRequest(pod_sandbox_id="0001"))
    assert (told.pod_sandbox_id, told.pod, told.netns) == (sandbox().id, "space/pod1", "/netns/0001")
    assert told.interfaces[0].name == "eth0"
    assert networks.calls == [("view", sandbox().id)]
    for text, code in (("ffff", grpc.StatusCode.NOT_FOUND), ("", grpc.StatusCode.INVALID_ARGUMENT)):
        with pytest.raises(aio.AioRpcError) as caught:
            await client.InspectPodNetwork(pb.InspectPodNetworkRequest(pod_sandbox_id=text))
        assert caught.value.code() == code


async def test_a_check_streams_what_was_found_of_each_pod(client: Any, networks: FakeNetworks) -> None:
    request = pb.CheckNetworksRequest(pod_sandbox_ids=["0001"], repair=True)
    found = [item async for item in client.CheckNetworks(request)]
    assert [(item.pod, item.problem, item.repaired) for item in found] == [
        ("space/pod1", "", False),
        ("space/pod2", "down", True),
    ]
    assert networks.calls == [("check", ("0001",), True)]


async def test_a_check_that_fails_ends_with_its_error_after_what_was_found(
    client: Any, networks: FakeNetworks
) -> None:
    networks.raises = NotFound("there is no pod sandbox 'x'")
    call = client.CheckNetworks(pb.CheckNetworksRequest())
    assert (await call.read()).pod == "space/pod1"
    with pytest.raises(aio.AioRpcError, match="there is no pod sandbox 'x'"):
        await call.read()
    assert await call.code() == grpc.StatusCode.NOT_FOUND


async def test_garbage_is_collected_as_far_as_was_asked(client: Any, networks: FakeNetworks) -> None:
    for everything in (False, True):
        answer = await client.CollectNetworkGarbage(pb.CollectNetworkGarbageRequest(everything=everything))
        assert list(answer.released) == ["address 10.0.0.9"]
    assert networks.calls == [("collect", False), ("collect", True)]


async def test_a_removal_is_refused_with_what_stands_against_it(client: Any, networks: FakeNetworks) -> None:
    assert await client.RemoveNetwork(pb.RemoveNetworkRequest()) == pb.RemoveNetworkResponse()
    networks.raises = WrongState("2 pods are attached: 0001")
    with pytest.raises(aio.AioRpcError) as caught:
        await client.RemoveNetwork(pb.RemoveNetworkRequest())
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "2 pods are attached: 0001"
