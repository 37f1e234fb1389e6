"""What a client learns without knowing the CRI: whether the daemon is well, and what it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc import aio
from grpc_health.v1 import health_pb2 as health
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as reflection

from crib.api.health_service import KNOWN
from crib.api.reflection_service import NAMES
from crib.api.server import Server
from crib.engine.node import Node
from crib.model.settings import Settings
from crib.stubs.runtime.v1 import api_pb2, api_pb2_grpc
from tests.unit.api.fake_node import FakeNode

END: Any = cast(Any, aio).EOF
"""What a stream is read to; the library has it, its stubs do not."""
BOUND = 60.0
"""Seconds after which a test has failed; nothing here takes that long."""
SERVING = health.HealthCheckResponse.SERVING
NOT_SERVING = health.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(Settings(data=str(tmp_path / "data"), state=str(tmp_path / "state")))


@pytest.fixture
async def server(node: FakeNode) -> AsyncIterator[Server]:
    server = Server(cast(Node, node), "9.9", lambda kind, token: f"http://streams/{kind}/{token}")
    await server.start()
    yield server
    await server.stop(0)


@pytest.fixture
async def channel(server: Server, node: FakeNode) -> AsyncIterator[aio.Channel]:
    async with asyncio.timeout(BOUND), aio.insecure_channel(f"unix:{node.settings.socket_path}") as channel:
        yield channel


async def checked(channel: aio.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health.HealthCheckRequest(service=service))
    return int(answer.status)


async def test_health_follows_the_daemon_from_its_start_to_its_end(
    server: Server, node: FakeNode, channel: aio.Channel
) -> None:
    assert await checked(channel) == NOT_SERVING, "it recovers"
    server.gate.open()
    assert await checked(channel) == SERVING
    node.notices.fault("records", "the disk is full")
    assert await checked(channel) == NOT_SERVING, "no pod can be made"
    node.notices.healed("records")
    assert await checked(channel) == SERVING
    server.gate.shut("crib is stopping")
    assert await checked(channel) == NOT_SERVING


@pytest.mark.parametrize("service", sorted(KNOWN))
async def test_every_service_is_as_well_as_the_daemon(
    server: Server, channel: aio.Channel, service: str
) -> None:
    server.gate.open()
    assert await checked(channel, service) == SERVING


async def test_a_service_that_is_not_here_is_not_found(channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await checked(channel, "runtime.v1alpha2.RuntimeService")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_who_watches_is_told_each_change_and_the_end(
    server: Server, node: FakeNode, channel: aio.Channel
) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    call = stub.Watch(health.HealthCheckRequest())
    assert (await call.read()).status == NOT_SERVING
    server.gate.open()
    assert (await call.read()).status == SERVING
    node.notices.fault("records", "the disk is full")
    assert (await call.read()).status == NOT_SERVING
    node.notices.fault("records", "the disk is still full")
    node.notices.healed("records")
    assert (await call.read()).status == SERVING
    server.gate.shut("crib is stopping")
    assert (await call.read()).status == NOT_SERVING
    assert await call.read() is END, "or it would hold up the stop"


async def test_who_watches_what_is_not_here_is_told_so(channel: aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    call = stub.Watch(health.HealthCheckRequest(service="nobody"))
    assert (await call.read()).status == health.HealthCheckResponse.SERVICE_UNKNOWN


def asking(channel: aio.Channel, name: str) -> Any:
    method: Any = channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=reflection.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection.ServerReflectionResponse.FromString,
    )
    return method()


@pytest.mark.parametrize("version", NAMES)
async def test_a_client_that_knows_nothing_finds_the_services_and_calls_one(
    server: Server, channel: aio.Channel, version: str
) -> None:
    call = asking(channel, version)
    await call.write(reflection.ServerReflectionRequest(list_services=""))
    listed = (await call.read()).list_services_response.service
    assert {"runtime.v1.RuntimeService", "runtime.v1.ImageService", "crib.v1.Node"} <= {
        service.name for service in listed
    }
    await call.write(reflection.ServerReflectionRequest(file_containing_symbol="runtime.v1.RuntimeService"))
    files = (await call.read()).file_descriptor_response.file_descriptor_proto
    await call.done_writing()
    pool = descriptor_pool.DescriptorPool()
    for file in reversed(files):
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(file))
    service = pool.FindServiceByName("runtime.v1.RuntimeService")
    method = service.methods_by_name["Version"]
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    version_of: Any = channel.unary_unary(
        f"/{service.full_name}/Version",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    assert (await version_of(request())).runtime_name == "crib"


async def test_every_service_that_is_listed_can_be_described(channel: aio.Channel) -> None:
    call = asking(channel, NAMES[0])
    await call.write(reflection.ServerReflectionRequest(list_services=""))
    for service in (await call.read()).list_services_response.service:
        await call.write(reflection.ServerReflectionRequest(file_containing_symbol=service.name))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto, service.name
    await call.done_writing()


async def test_calls_are_counted_by_method_and_code(
    server: Server, node: FakeNode, channel: aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def stop(_: str) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    monkeypatch.setattr(node.sandboxes, "stop", stop)
    stub: Any = api_pb2_grpc.RuntimeServiceStub(channel)
    figures = server.door.figures
    with pytest.raises(aio.AioRpcError):
        await stub.ListContainers(api_pb2.ListContainersRequest())
    server.gate.open()
    for _ in range(2):
        await stub.Version(api_pb2.VersionRequest())
    with pytest.raises(aio.AioRpcError):
        await stub.PodSandboxStatus(api_pb2.PodSandboxStatusRequest(pod_sandbox_id="nothing"))
    call = stub.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id="0001"))
    await begun.wait()
    assert figures.open.counts[("StopPodSandbox",)] == 1
    call.cancel()
    await gone.wait()
    assert figures.answered.counts == {
        ("ListContainers", "UNAVAILABLE"): 1,
        ("Version", "OK"): 2,
        ("PodSandboxStatus", "NOT_FOUND"): 1,
        ("StopPodSandbox", "CANCELLED"): 1,
    }
    assert {method: sum(spread.buckets) for (method,), spread in figures.durations.series.items()} == {
        "Version": 2,
        "PodSandboxStatus": 1,
        "StopPodSandbox": 1,
    }
    assert set(figures.open.counts.values()) == {0}
