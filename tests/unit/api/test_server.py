"""The door as a client sees it: a real server on a unix socket, with a fake node behind it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import stat
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc import aio

from crib import __version__
from crib.api.calls import Answer, Call, Parts, Read, Verb, nothing
from crib.api.changes import Changes
from crib.api.interceptors import Door, ReadinessGate
from crib.api.runtime_service import RuntimeService
from crib.api.server import RECEIVE_LIMIT, Server
from crib.api.translate import containers, sandboxes
from crib.api.translate.ledger import NOT_BUILT
from crib.api.translate.sandboxes import StatusQuery
from crib.client import Connection
from crib.engine.events import Subscription
from crib.engine.node import Node
from crib.model.caller import CallObject
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState
from crib.model.errors import (
    REGISTRY_UNAVAILABLE,
    RRO_UNSUPPORTED,
    AlreadyExists,
    Broken,
    Exhausted,
    FieldOf,
    InvalidRequest,
    NotBuilt,
    NotFound,
    TimedOut,
    Unavailable,
    WrongState,
)
from crib.model.events import ContainerEvent, EventType
from crib.model.ids import ContainerId, SandboxId
from crib.model.sandbox import Resources
from crib.model.settings import Settings
from crib.model.streams import AttachRequest, ExecProcess, ForwardRequest, PodAddress
from crib.rpc.codes import CallerGone
from crib.rpc.server import GrpcServer
from crib.stubs.node.v1 import node_pb2, node_pb2_grpc
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.stubs.runtime.v1 import api_pb2_grpc
from crib.tasks.calls import CallUnderWay, current_call, current_caller, start_call
from tests.unit.api.fake_node import FakeNode, container, image, sandbox

END: Any = cast(Any, aio).EOF
"""What a stream is read to; the library has it, its stubs do not."""
TARGETS = (
    PodAddress("tcp", 80),
    PodAddress("udp", 53),
    PodAddress("unix", container="box", path="/run//x:y"),
)
NO_AUDIT = Changes(lambda _: CallObject(), None)
BOUND = 60.0
"""Seconds after which a test has failed; nothing here takes that long."""


def url_for(kind: str, token: str) -> str:
    return f"http://streams/{kind}/{token}"


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(Settings(data=str(tmp_path / "data"), state=str(tmp_path / "state")))


@pytest.fixture
async def server(node: FakeNode) -> AsyncIterator[Server]:
    server = Server(cast(Node, node), "9.9", url_for)
    await server.start()
    server.gate.open()
    yield server
    await server.stop(0)


@pytest.fixture
async def client(server: Server, node: FakeNode) -> AsyncIterator[Any]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with aio.insecure_channel(f"unix:{node.settings.socket_path}", options=options) as channel:
        yield SimpleNamespace(
            runtime=api_pb2_grpc.RuntimeServiceStub(channel),
            images=api_pb2_grpc.ImageServiceStub(channel),
            node=node_pb2_grpc.NodeStub(channel),
            channel=channel,
        )


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_version_names_crib_and_the_api(client: Any) -> None:
    answer = await client.runtime.Version(pb.VersionRequest())
    assert (answer.runtime_name, answer.runtime_version, answer.runtime_api_version) == ("crib", "9.9", "v1")


async def test_before_the_gate_opens_every_call_but_version_is_unavailable(
    server: Server, client: Any
) -> None:
    server.gate.shut("crib is starting")
    await client.runtime.Version(pb.VersionRequest())
    code, text = await refused(client.runtime.Status(pb.StatusRequest()))
    assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "crib is starting")
    with pytest.raises(aio.AioRpcError, match="crib is starting"):
        _ = [part async for part in client.runtime.StreamContainers(pb.StreamContainersRequest())]


async def test_status_tells_conditions_handlers_and_features(client: Any) -> None:
    answer = await client.runtime.Status(pb.StatusRequest(verbose=True))
    conditions = {c.type: (c.status, c.reason) for c in answer.status.conditions}
    assert conditions == {"RuntimeReady": (True, ""), "NetworkReady": (False, "NoConflist")}
    features = {h.name: h.features.recursive_read_only_mounts for h in answer.runtime_handlers}
    assert features == {"": True, "crun": True, "runc": False}
    assert answer.features.supplemental_groups_policy
    info = json.loads(answer.info["info"])
    assert info["host"]["kernel"] == "6.1"
    assert info["verbs"] == {"places": 4, "making": 4, "ending": 1, "overdue": 0, "queued": 17}


async def test_a_verb_is_done_for_the_program_that_asked(
    client: Any, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers: list[str] = []

    async def stop(_: str) -> None:
        callers.append(current_caller().agent)

    monkeypatch.setattr(node.sandboxes, "stop", stop)
    request = pb.StopPodSandboxRequest(pod_sandbox_id="0001")
    await client.runtime.StopPodSandbox(request)
    async with Connection(node.settings.socket_path) as own:
        await own.call(own.runtime.StopPodSandbox, request)
    assert callers[0].startswith("grpc-python-asyncio/")
    assert callers[1].startswith(f"crib/{__version__} (process {os.getpid()}) grpc-python-asyncio/")


@pytest.mark.parametrize(
    ("parent", "trace"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (f"00-{32 * '0'}-00f067aa0ba902b7-01", ""),
        ("a forged] line", ""),
    ],
)
async def test_a_verb_belongs_to_the_trace_that_its_caller_names(
    client: Any, node: FakeNode, monkeypatch: pytest.MonkeyPatch, parent: str, trace: str
) -> None:
    calls: list[CallUnderWay | None] = []

    async def stop(_: str) -> None:
        calls.append(current_call())

    monkeypatch.setattr(node.sandboxes, "stop", stop)
    request = pb.StopPodSandboxRequest(pod_sandbox_id="0001")
    await client.runtime.StopPodSandbox(request, metadata=[("traceparent", parent)])
    assert calls[0] is not None
    assert (calls[0].verb, calls[0].trace) == ("StopPodSandbox", trace)


async def test_runtime_config_tells_the_cgroup_driver(client: Any) -> None:
    answer = await client.runtime.RuntimeConfig(pb.RuntimeConfigRequest())
    assert answer.linux.cgroup_driver == pb.CGROUPFS


async def test_the_pod_cidr_reaches_the_network(client: Any, node: FakeNode) -> None:
    def request(cidr: str) -> pb.UpdateRuntimeConfigRequest:
        return pb.UpdateRuntimeConfigRequest(
            runtime_config=pb.RuntimeConfig(network_config=pb.NetworkConfig(pod_cidr=cidr))
        )

    await client.runtime.UpdateRuntimeConfig(request("10.1.0.0/24,fd00::/64"))
    await client.runtime.UpdateRuntimeConfig(request(""))
    assert node.calls == [("configure", "10.1.0.0/24,fd00::/64")]
    code, text = await refused(client.runtime.UpdateRuntimeConfig(request("10.1.0/x")))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("runtime_config.network_config.pod_cidr: ")


async def test_verbs_get_model_values_and_give_ids(client: Any, node: FakeNode) -> None:
    runtime = client.runtime
    config = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="p", uid="u", namespace="n"))
    made = await runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config, runtime_handler="runc"))
    assert made.pod_sandbox_id == sandbox().id
    wanted = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="busybox"), args=["sh"]
    )
    created = await runtime.CreateContainer(
        pb.CreateContainerRequest(pod_sandbox_id=made.pod_sandbox_id, config=wanted, sandbox_config=config)
    )
    await runtime.StartContainer(pb.StartContainerRequest(container_id=created.container_id))
    await runtime.StopContainer(pb.StopContainerRequest(container_id=created.container_id, timeout=7))
    await runtime.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id=created.container_id))
    await runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=created.container_id))
    await runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=made.pod_sandbox_id))
    await runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=made.pod_sandbox_id))
    names = [call[0] for call in node.calls]
    assert names == ["run", "create", "start", "stop", "reopen", "remove", "stop sandbox", "remove sandbox"]
    assert node.calls[0][1].metadata.name == "p"
    assert node.calls[0][2] == "runc"
    assert node.calls[1][1:3] == (sandbox().id, node.calls[1][2])
    assert node.calls[1][2].args == ("sh",)
    assert node.calls[3] == ("stop", container().id, 7)


async def test_exec_sync_gives_output_and_exit_code(client: Any, node: FakeNode) -> None:
    answer = await client.runtime.ExecSync(pb.ExecSyncRequest(container_id="abcd", cmd=["ls"], timeout=3))
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out", b"err", 3)
    assert node.calls[0][2].argv == ("ls",)
    assert node.calls[0][2].timeout == 3


async def test_updates_reach_the_verbs_with_what_they_name(client: Any, node: FakeNode) -> None:
    runtime = client.runtime
    limits = pb.LinuxContainerResources(cpu_shares=5, oom_score_adj=-3)
    await runtime.UpdateContainerResources(
        pb.UpdateContainerResourcesRequest(container_id=container().id, linux=limits)
    )
    await runtime.UpdatePodSandboxResources(
        pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox().id, resources=limits)
    )
    wanted = Resources(cpu_shares=5, oom_score_adj=-3)
    assert node.calls == [
        ("update", container().id, wanted),
        ("update sandbox", sandbox().id, None, wanted),
    ]
    limits.cpu_period = -1
    for call, field in (
        (
            runtime.UpdateContainerResources(
                pb.UpdateContainerResourcesRequest(container_id=container().id, linux=limits)
            ),
            "linux.cpu_period",
        ),
        (
            runtime.UpdatePodSandboxResources(
                pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox().id, overhead=limits)
            ),
            "overhead.cpu_period",
        ),
    ):
        code, words = await refused(call)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert field in words


@pytest.mark.parametrize("name", sorted(NOT_BUILT))
async def test_calls_that_are_not_built_say_so_by_name(client: Any, name: str) -> None:
    call = getattr(client.runtime, name)(getattr(pb, f"{name}Request")())
    code, text = await refused(call)
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert name in text


async def test_metrics_are_described_listed_and_streamed_as_they_are_read(
    client: Any, node: FakeNode
) -> None:
    runtime = client.runtime
    described = await runtime.ListMetricDescriptors(pb.ListMetricDescriptorsRequest())
    assert len(described.descriptors) == 56
    node.sandbox_rows[sandbox(2).id] = sandbox(2)
    listed = await runtime.ListPodSandboxMetrics(pb.ListPodSandboxMetricsRequest())
    assert [pod.pod_sandbox_id for pod in listed.pod_metrics] == [sandbox(1).id, sandbox(2).id]
    names = {metric.name for metric in listed.pod_metrics[0].container_metrics[0].metrics}
    assert (
        {"container_last_seen", "container_memory_rss"}
        <= names
        <= {one.name for one in described.descriptors}
    )
    node.hold = asyncio.Event()
    stream = runtime.StreamPodSandboxMetrics(pb.StreamPodSandboxMetricsRequest()).__aiter__()
    async with asyncio.timeout(20):
        first = await anext(stream)  # while the reading of the second one waits
    node.hold.set()
    rest = [part async for part in stream]
    pods = [pod for part in (first, *rest) for pod in part.pod_sandbox_metrics]
    assert pods == list(listed.pod_metrics)


STREAMED_LISTS = [
    (service.name, method.name)
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name.startswith("Stream")
]


@pytest.mark.parametrize(("service", "name"), STREAMED_LISTS)
async def test_no_streamed_list_makes_a_kubelet_give_up_streams(client: Any, service: str, name: str) -> None:
    stub = client.runtime if service == "RuntimeService" else client.images
    answer = getattr(stub, name)(getattr(pb, f"{name}Request")())
    _ = [part async for part in answer]
    assert await answer.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("bad", field="config.x"), grpc.StatusCode.INVALID_ARGUMENT),
        (NotFound("gone"), grpc.StatusCode.NOT_FOUND),
        (AlreadyExists("taken"), grpc.StatusCode.ALREADY_EXISTS),
        (WrongState("not now"), grpc.StatusCode.FAILED_PRECONDITION),
        (Exhausted("full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (TimedOut("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (Unavailable("away"), grpc.StatusCode.UNAVAILABLE),
        (NotBuilt("no"), grpc.StatusCode.UNIMPLEMENTED),
        (Broken("host"), grpc.StatusCode.INTERNAL),
        (Broken("no rro", reason=RRO_UNSUPPORTED), grpc.StatusCode.INTERNAL),
        (Unavailable("dns", reason=REGISTRY_UNAVAILABLE), grpc.StatusCode.UNKNOWN),
    ],
)
async def test_an_error_of_the_engine_becomes_its_code_and_text(
    client: Any, node: FakeNode, error: Exception, code: grpc.StatusCode
) -> None:
    node.raises = error
    request = pb.PullImageRequest(image=pb.ImageSpec(image="busybox"))
    assert await refused(client.images.PullImage(request)) == (code, str(error))


POD = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="p", uid="u", namespace="n"))
BOX = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="busybox"))


@pytest.mark.parametrize(
    ("name", "request_message", "place"),
    [
        ("RunPodSandbox", pb.RunPodSandboxRequest(config=POD), "config."),
        ("CreateContainer", pb.CreateContainerRequest(pod_sandbox_id="0001", config=BOX), "config."),
        ("UpdateContainerResources", pb.UpdateContainerResourcesRequest(container_id="0001"), "linux."),
        (
            "UpdatePodSandboxResources",
            pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id="0001"),
            "resources.",
        ),
        ("ExecSync", pb.ExecSyncRequest(container_id="0001", cmd=["a"]), ""),
    ],
)
async def test_each_call_puts_the_place_of_its_noun_before_the_field(
    client: Any, node: FakeNode, name: str, request_message: Any, place: str
) -> None:
    for error, text in (
        (InvalidRequest("bad", field="a.b"), f"{place}a.b: bad"),
        (InvalidRequest("bad", field="a.b", of=FieldOf.REQUEST), "a.b: bad"),
        (WrongState("not now", field="a.b"), f"{place}a.b: not now"),
        (WrongState("not now"), "not now"),
    ):
        node.raises = error
        assert (await refused(getattr(client.runtime, name)(request_message)))[1] == text
    node.raises = InvalidRequest("bad", field="annotations[a]", of=FieldOf.POD)
    _, text = await refused(getattr(client.runtime, name)(request_message))
    assert text == ("sandbox_config." if name == "CreateContainer" else "") + "annotations[a]: bad"


async def test_an_unexpected_error_is_internal_and_logged_with_its_request(
    client: Any, node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.raises = ZeroDivisionError("oops")
    code, text = await refused(client.runtime.StartContainer(pb.StartContainerRequest(container_id="abcd")))
    assert code == grpc.StatusCode.INTERNAL
    assert "StartContainer: ZeroDivisionError: oops (request " in text
    (record,) = [r for r in caplog.records if r.levelname == "ERROR" and r.name.startswith("crib.")]
    assert record.exc_info is not None


async def test_a_long_error_is_cut_in_the_middle(client: Any, node: FakeNode) -> None:
    node.raises = Broken("begin" + "é" * 100_000 + "end")
    _, text = await refused(client.runtime.StartContainer(pb.StartContainerRequest(container_id="abcd")))
    assert text.startswith("begin")
    assert text.endswith("end")
    assert len(text) < 4000


async def test_bytes_that_are_no_message_are_the_callers_fault(client: Any) -> None:
    call = client.channel.unary_unary("/runtime.v1.RuntimeService/Status")
    code, text = await refused(call(b"\xff\xff\xff"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "not a message of Status" in text


async def test_an_unknown_call_is_unimplemented(client: Any) -> None:
    code, _ = await refused(client.channel.unary_unary("/runtime.v1.RuntimeService/Nonsense")(b""))
    assert code == grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_beyond_the_limit_is_refused(client: Any) -> None:
    request = pb.ExecSyncRequest(container_id="abcd", cmd=["x" * RECEIVE_LIMIT])
    code, _ = await refused(client.runtime.ExecSync(request))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_large_answers_get_through(client: Any, node: FakeNode) -> None:
    big = "x" * 1_000_000
    for number in range(20):
        row = container(number)
        config = ContainerConfig("c", "i", annotations={"big": big})
        node.container_rows[row.id] = container(number, config=config)
    answer = await client.runtime.ListContainers(pb.ListContainersRequest())
    assert len(answer.containers) == 20


async def test_a_callers_deadline_ends_its_waiting_with_its_own_error(client: Any, node: FakeNode) -> None:
    node.hold = asyncio.Event()
    request = pb.StartContainerRequest(container_id="abcd")
    code, _ = await refused(client.runtime.StartContainer(request, timeout=0.05))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    node.hold.set()
    await client.runtime.StartContainer(request)


async def test_work_that_the_daemon_ends_is_unavailable_to_its_caller(client: Any, node: FakeNode) -> None:
    node.raises = asyncio.CancelledError()
    code, text = await refused(client.runtime.StartContainer(pb.StartContainerRequest(container_id="abcd")))
    assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "crib is stopping")


async def test_lists_filter_by_id_state_sandbox_and_labels(client: Any, node: FakeNode) -> None:
    for number in range(2, 5):
        row = container(number, state=ContainerState.EXITED)
        node.container_rows[row.id] = row

    async def listed(**wanted: Any) -> list[str]:
        wanted_filter = pb.ContainerFilter(**wanted)
        answer = await client.runtime.ListContainers(pb.ListContainersRequest(filter=wanted_filter))
        return [found.metadata.name for found in answer.containers]

    exited = pb.ContainerStateValue(state=pb.ContainerState.CONTAINER_EXITED)
    created = pb.ContainerStateValue(state=pb.ContainerState.CONTAINER_CREATED)
    assert await listed() == ["ctr1", "ctr2", "ctr3", "ctr4"]
    assert await listed(id=container(2).id) == ["ctr2"]
    assert await listed(id=container(2).id[:6]) == ["ctr2"]
    assert await listed(state=exited) == ["ctr2", "ctr3", "ctr4"]
    assert await listed(state=created) == []
    assert await listed(state=exited, id="0003") == ["ctr3"]
    assert await listed(pod_sandbox_id=sandbox().id[:8]) == ["ctr1", "ctr2", "ctr3", "ctr4"]
    assert await listed(pod_sandbox_id="ffff") == []
    assert await listed(label_selector={"app": "x"}) == []


async def test_sandbox_lists_filter_too(client: Any, node: FakeNode) -> None:
    async def listed(**wanted: Any) -> int:
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(**wanted))
        return len((await client.runtime.ListPodSandbox(request)).items)

    ready = pb.PodSandboxStateValue(state=pb.PodSandboxState.SANDBOX_READY)
    not_ready = pb.PodSandboxStateValue(state=pb.PodSandboxState.SANDBOX_NOTREADY)
    assert await listed(state=ready, label_selector={"app": "x"}) == 1
    assert await listed(state=not_ready) == 0
    assert await listed(label_selector={"app": "y"}) == 0
    assert await listed(id="0001") == 1


async def test_lists_show_a_record_as_it_is_now(client: Any, node: FakeNode) -> None:
    first = await client.runtime.ListContainers(pb.ListContainersRequest())
    node.container_rows[container().id] = container(state=ContainerState.EXITED)
    second = await client.runtime.ListContainers(pb.ListContainersRequest())
    node.container_rows.clear()
    third = await client.runtime.ListContainers(pb.ListContainersRequest())
    assert [c.state for c in first.containers] == [pb.ContainerState.CONTAINER_RUNNING]
    assert [c.state for c in second.containers] == [pb.ContainerState.CONTAINER_EXITED]
    assert not third.containers


async def test_streamed_lists_hold_the_same_in_bounded_parts(client: Any, node: FakeNode) -> None:
    for number in range(1, 30):
        config = ContainerConfig(f"c{number}", "i", annotations={"big": "x" * 100_000})
        row = container(number, config=config)
        node.container_rows[row.id] = row
    whole = await client.runtime.ListContainers(pb.ListContainersRequest())
    parts = [p async for p in client.runtime.StreamContainers(pb.StreamContainersRequest())]
    assert len(parts) == 3
    assert all(part.ByteSize() < 2 << 20 for part in parts)
    assert [c for part in parts for c in part.containers] == list(whole.containers)
    pods = [p async for p in client.runtime.StreamPodSandboxes(pb.StreamPodSandboxesRequest())]
    assert [p.id for part in pods for p in part.pod_sandboxes] == [sandbox().id]
    stats = [p async for p in client.runtime.StreamContainerStats(pb.StreamContainerStatsRequest())]
    assert sum(len(part.container_stats) for part in stats) == 29
    pod_stats = [p async for p in client.runtime.StreamPodSandboxStats(pb.StreamPodSandboxStatsRequest())]
    assert [s.attributes.id for part in pod_stats for s in part.pod_sandbox_stats] == [sandbox().id]
    images = [p async for p in client.images.StreamImages(pb.StreamImagesRequest())]
    assert [i.id for part in images for i in part.images] == [image().id]


async def test_figures_are_streamed_as_they_are_read(client: Any, node: FakeNode) -> None:
    node.hold = asyncio.Event()
    node.container_rows[container(2).id] = container(2)
    async with asyncio.timeout(BOUND):
        stream = client.runtime.StreamContainerStats(pb.StreamContainerStatsRequest())
        first = await anext(aiter(stream))  # while the second is still being read
        assert [one.attributes.id for one in first.container_stats] == [container().id]
        node.hold.set()
        assert [one.attributes.id async for part in stream for one in part.container_stats] == [
            container(2).id
        ]


async def test_an_empty_stream_ends_without_a_message(client: Any, node: FakeNode) -> None:
    node.container_rows.clear()
    assert [p async for p in client.runtime.StreamContainers(pb.StreamContainersRequest())] == []


async def test_a_status_is_encoded_once_until_its_record_changes_or_goes(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[ContainerRecord] = []
    encode = containers.encode_status

    def noted(record: ContainerRecord) -> pb.ContainerStatus:
        encoded.append(record)
        return encode(record)

    monkeypatch.setattr(containers, "encode_status", noted)
    service = RuntimeService(cast(Node, node), "9.9", url_for)
    calls: Any = service.calls()
    one, pod, row = StatusQuery(container().id), StatusQuery(sandbox().id), container()
    for _ in range(2):
        answer = pb.ContainerStatusResponse.FromString(calls["ContainerStatus"].run(one))
        assert answer == pb.ContainerStatusResponse(status=encode(row))
        whole = pb.PodSandboxStatusResponse.FromString(calls["PodSandboxStatus"].run(pod))
        assert list(whole.containers_statuses) == [encode(row)]
        assert whole.status == sandboxes.encode_status(sandbox())
        assert whole.timestamp > 0
    assert encoded == [row]
    changed = node.container_rows[row.id] = container(state=ContainerState.EXITED)
    answer = pb.ContainerStatusResponse.FromString(calls["ContainerStatus"].run(one))
    assert (answer.status.state, encoded) == (pb.CONTAINER_EXITED, [row, changed])
    node.container_rows.clear()
    node.sandbox_rows.clear()
    await calls["ListContainers"].run(None)
    await calls["ListPodSandbox"].run(None)
    assert (service._container_statuses._kept, service._sandbox_statuses._kept) == ({}, {})


async def test_statuses_are_found_by_id_or_its_beginning(client: Any) -> None:
    pod = await client.runtime.PodSandboxStatus(
        pb.PodSandboxStatusRequest(pod_sandbox_id="0001", verbose=True)
    )
    assert pod.status.id == sandbox().id
    assert pod.status.network.ip == "10.88.0.2"
    assert [ip.ip for ip in pod.status.network.additional_ips] == ["fd00::2"]
    assert [c.id for c in pod.containers_statuses] == [container().id]
    assert pod.timestamp > 0
    assert json.loads(pod.info["info"])["timeline"][0]["name"] == "run"
    request = pb.ContainerStatusRequest(container_id=container().id, verbose=True)
    status = await client.runtime.ContainerStatus(request)
    assert status.status.image.image == "busybox"
    shown = json.loads(status.info["info"])
    assert (shown["pid"], shown["runtimeSpec"]["process"]["args"]) == (42, ["sleep"])
    request = pb.ContainerStatusRequest(container_id=container().id)
    assert not (await client.runtime.ContainerStatus(request)).info
    code, _ = await refused(client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id="ffff")))
    assert code == grpc.StatusCode.NOT_FOUND
    code, text = await refused(client.runtime.ContainerStatus(pb.ContainerStatusRequest()))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "container_id: is empty")


async def test_images_are_listed_pulled_and_removed(client: Any, node: FakeNode) -> None:
    images, spec = client.images, pb.ImageSpec(image=image().tags[0])
    listed = await images.ListImages(pb.ListImagesRequest(filter=pb.ImageFilter(image=spec)))
    assert [found.id for found in listed.images] == [image().id]
    other = pb.ImageFilter(image=pb.ImageSpec(image="other"))
    assert not (await images.ListImages(pb.ListImagesRequest(filter=other))).images
    assert len((await images.ListImages(pb.ListImagesRequest())).images) == 1
    status = await images.ImageStatus(pb.ImageStatusRequest(image=spec, verbose=True))
    assert status.image.uid.value == 1000
    shown = json.loads(status.info["info"])
    assert (shown["imageSpec"], shown["manifest"]) == ({"os": "linux"}, None)
    assert shown["chainID"] == image().layers[0].diff_id
    missing = await images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image="other")))
    assert not missing.HasField("image")
    pod = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="p", namespace="n", uid="u", attempt=2))
    pulled = await images.PullImage(pb.PullImageRequest(image=spec, sandbox_config=pod))
    assert pulled.image_ref == image().id
    assert node.calls[-1][2].attempt == 2
    await images.RemoveImage(pb.RemoveImageRequest(image=spec))
    assert node.calls[-1] == ("remove image", image().tags[0])
    code, text = await refused(images.RemoveImage(pb.RemoveImageRequest()))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "image.image: is empty")


async def test_image_fs_info_tells_both_file_systems(client: Any) -> None:
    answer = await client.images.ImageFsInfo(pb.ImageFsInfoRequest())
    assert answer.image_filesystems[0].used_bytes.value == 10
    assert answer.container_filesystems[0].fs_id.mountpoint == "/data"


async def test_stats_leave_unset_what_is_not_known(client: Any) -> None:
    one = await client.runtime.ContainerStats(pb.ContainerStatsRequest(container_id="0001"))
    assert one.stats.cpu.usage_core_nano_seconds.value == 100
    assert not one.stats.memory.HasField("available_bytes")
    assert not one.stats.HasField("swap")
    listed = await client.runtime.ListContainerStats(pb.ListContainerStatsRequest())
    assert listed.stats[0].attributes.metadata.name == "ctr1"
    pod = await client.runtime.PodSandboxStats(pb.PodSandboxStatsRequest(pod_sandbox_id="0001"))
    assert pod.stats.linux.network.default_interface.name == "eth0"
    assert [i.name for i in pod.stats.linux.network.interfaces] == ["net1"]
    assert pod.stats.linux.process.process_count.value == 3
    wanted = pb.PodSandboxStatsFilter(label_selector={"app": "no"})
    none = await client.runtime.ListPodSandboxStats(pb.ListPodSandboxStatsRequest(filter=wanted))
    assert not none.stats


async def test_events_carry_the_states_of_their_moment(client: Any, node: FakeNode) -> None:
    async with asyncio.timeout(BOUND):
        stream = client.runtime.GetContainerEvents(pb.GetEventsRequest())
        await stream.initial_metadata()  # it comes when the subscription is made
        exited = container(state=ContainerState.EXITED, exit_code=3)
        node.events.publish(ContainerEvent(exited.id, EventType.STOPPED, 77, sandbox(), (exited,)))
        node.events.publish(ContainerEvent(sandbox().id, EventType.DELETED, 78, None, ()))
        first, second = await stream.read(), await stream.read()
        assert first.container_event_type == pb.CONTAINER_STOPPED_EVENT
        assert (first.created_at, first.containers_statuses[0].reason) == (77, "Error")
        assert first.pod_sandbox_status.id == sandbox().id
        assert not second.HasField("pod_sandbox_status")
        stream.cancel()


async def test_a_subscriber_that_leaves_is_forgotten(client: Any, node: FakeNode) -> None:
    gone = asyncio.Event()
    forget = node.events.unsubscribe

    def unsubscribe(subscription: Subscription) -> None:
        forget(subscription)
        gone.set()

    node.events.unsubscribe = unsubscribe  # type: ignore[method-assign]  # a spy
    async with asyncio.timeout(BOUND):
        stream = client.runtime.GetContainerEvents(pb.GetEventsRequest())
        await stream.initial_metadata()
        stream.cancel()
        await gone.wait()
    assert not node.events._subscriptions


async def test_the_node_service_tells_info_and_timeline(client: Any, node: FakeNode) -> None:
    info = await client.node.Info(node_pb2.InfoRequest())
    assert (info.version, info.network_mode, info.cgroup_version) == ("9.9", "cni", 1)
    assert [h.name for h in info.handlers if h.default_handler] == ["crun"]
    assert [(h.name, h.kind) for h in info.handlers] == [("crun", "oci"), ("runc", "vm")]
    assert (info.counts.containers_running, info.counts.layers) == (1, 1)
    assert info.facts["host.seccomp"] == "yes"
    assert (info.facts["verbs.queued"], info.facts["verbs.places"]) == ("17", "4")
    assert info.started_at > 0
    assert (info.loop.stalls, info.loop.longest) == (2, 0.5)
    assert [(wait.what, wait.owner, wait.overdue) for wait in info.waiting] == [("reading /mnt", "web", True)]
    found = await client.node.Timeline(node_pb2.TimelineRequest(pod="0001"))
    assert (found.pod_sandbox_id, found.pod) == (sandbox().id, "default/web")
    assert [(s.name, s.outcome) for s in found.stages] == [
        ("run", "ok"),
        ("attach", "failed: no address left"),
    ]
    code, _ = await refused(client.node.Timeline(node_pb2.TimelineRequest(pod="ffff")))
    assert code == grpc.StatusCode.NOT_FOUND


async def test_imports_and_pulls_can_be_followed(client: Any, node: FakeNode) -> None:
    request = node_pb2.ImportImageRequest(path="/a.tar", names=["a:1"])
    steps = [step async for step in client.node.ImportImage(request)]
    assert [step.stage for step in steps] == ["reading", "layer", "done"]
    assert steps[-1].images[0].image_id == image().id
    pull = node_pb2.PullProgressRequest(image="busybox", start=True)
    seen = [step async for step in client.node.PullImageProgress(pull)]
    assert [step.stage for step in seen] == ["fetching", "done"]
    assert (seen[0].image, seen[0].host) == ("docker.io/library/busybox:latest", "mirror:5000")
    assert (seen[-1].finished, seen[-1].image_id) == (True, image().id)
    node.raises = Unavailable("gone away")
    failed = [step async for step in client.node.PullImageProgress(pull)]
    assert (failed[-1].finished, failed[-1].error) == (True, "gone away")
    assert failed[-1].error_code == "UNAVAILABLE"
    code, _ = await refused(
        client.node.PullImageProgress(node_pb2.PullProgressRequest(image="busybox")).read()
    )
    assert code == grpc.StatusCode.NOT_FOUND
    code, text = await refused(client.node.ImportImage(node_pb2.ImportImageRequest(path="a")).read())
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "path: 'a' is not an absolute path")


async def test_credentials_and_platform_of_a_pull_reach_the_engine_and_no_log(
    client: Any, node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    auth = pb.AuthConfig(
        username="me",
        password="hidden1",
        auth="aGlkZGVuMg==",
        server_address="reg.example",
        identity_token="hidden3",
        registry_token="hidden4",
    )
    spec = pb.ImageSpec(image="busybox", annotations={"io.crib.platform": "linux/arm64/v8"})
    node.raises = Unavailable("gone away")
    with caplog.at_level("DEBUG"):
        await refused(client.images.PullImage(pb.PullImageRequest(image=spec, auth=auth)))
    order = node.calls[-1][1]
    assert (order.auth.username, order.auth.password, order.auth.auth) == ("me", "hidden1", "aGlkZGVuMg==")
    assert (order.auth.identity_token, order.auth.registry_token) == ("hidden3", "hidden4")
    assert str(order.platform) == "linux/arm64/v8"
    for secret in ("hidden", "aGlkZGVuMg"):
        assert secret not in caplog.text
        assert secret not in repr(order)


@pytest.mark.parametrize("text", ["arm64", "linux/", "windows/amd64", "linux/arm64/v8/x", "Linux/amd64"])
async def test_a_platform_that_is_none_is_refused(client: Any, text: str) -> None:
    spec = pb.ImageSpec(image="busybox", annotations={"io.crib.platform": text})
    code, message = await refused(client.images.PullImage(pb.PullImageRequest(image=spec)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("image.annotations: ")


async def test_a_secret_that_cannot_be_sent_is_refused_without_being_shown(client: Any) -> None:
    for text in ("line\nfeed-hidden", "hidden" * 20_000):
        request = pb.PullImageRequest(image=pb.ImageSpec(image="a"), auth=pb.AuthConfig(password=text))
        code, message = await refused(client.images.PullImage(request))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith("auth.password: ")
        assert "hidden" not in message


async def test_hosts_are_explained_without_their_secrets(client: Any, node: FakeNode) -> None:
    answer = await client.node.ExplainRegistry(node_pb2.ExplainRegistryRequest(image="busybox"))
    (host,) = answer.hosts
    assert (answer.image, host.url) == ("docker.io/library/busybox:latest", "https://mirror.example/v2")
    assert (list(host.headers), host.authorities, host.resolves) == (["X-Secret"], 1, False)
    assert (host.credential, host.username) == ("auth.json", "user")
    assert "signed" in answer.policy
    assert "hidden" not in str(answer)


async def test_a_container_or_a_plan_is_explained_and_never_both(client: Any, node: FakeNode) -> None:
    of_one = node_pb2.ExplainContainerRequest(container_id="0001")
    answer = await client.node.ExplainContainer(of_one)
    assert (answer.spec, dict(answer.origins)) == (
        '{"ociVersion": "1.0.2"}',
        {"/ociVersion": "handler oci_version"},
    )
    assert (answer.container_id, answer.pod_sandbox_id) == (container().id, sandbox().id)
    plan = node_pb2.ExplainContainerRequest(
        config=pb.ContainerConfig(metadata=pb.ContainerMetadata(name="main"), image=pb.ImageSpec(image="a")),
        sandbox_config=pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name="pod", uid="u", namespace="space")
        ),
        runtime_handler="runc",
    )
    await client.node.ExplainContainer(plan)
    (_, of_container), (_, planned) = node.calls
    assert of_container == "0001"
    assert (planned.config.name, planned.sandbox.metadata.name, planned.handler) == ("main", "pod", "runc")
    plan.container_id = "0001"
    code, message = await refused(client.node.ExplainContainer(plan))
    assert (code, message) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "container_id: is set, so nothing else can be",
    )
    code, message = await refused(client.node.ExplainContainer(node_pb2.ExplainContainerRequest()))
    assert (code, message) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "config: is missing, and so is container_id",
    )


async def test_checks_tell_each_layer_and_end_with_the_count(client: Any, node: FakeNode) -> None:
    request = node_pb2.CheckImagesRequest(images=["a:1"], repair=True)
    *layers, last = [step async for step in client.node.CheckImages(request)]
    assert node.calls[-1] == ("check", ("a:1",), True)
    assert [(step.problem, step.repaired, step.repair_error) for step in layers] == [
        ("", False, ""),
        ("is torn", False, "nobody has it"),
        ("is torn", True, ""),
    ]
    assert (last.finished, last.layers, last.damaged) == (True, 3, 1)
    code, message = await refused(client.node.CheckImages(node_pb2.CheckImagesRequest(images=[""])).read())
    assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "images[0]: is empty")


async def test_images_are_exported_to_an_absolute_path(client: Any, node: FakeNode) -> None:
    request = node_pb2.ExportImagesRequest(path="/a.tar", images=["a:1"])
    assert (await client.node.ExportImages(request)).size_bytes == 4096
    assert node.calls[-1] == ("export", "/a.tar", ("a:1",), "oci")
    for change, field in (({"path": "a"}, "path"), ({"images": []}, "images"), ({"format": "zip"}, "format")):
        fields: dict[str, Any] = {"path": "/a", "images": ["a"], **change}
        wrong = node_pb2.ExportImagesRequest(**fields)
        code, message = await refused(client.node.ExportImages(wrong))
        assert (code, message.partition(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_streams_are_answered_with_their_urls(client: Any, node: FakeNode) -> None:
    exec_request = pb.ExecRequest(container_id="0001", cmd=["sh", "-i"], tty=True, stdin=True, stdout=True)
    assert (await client.runtime.Exec(exec_request)).url == "http://streams/exec/token"
    attach = pb.AttachRequest(container_id="0001", stdout=True, stderr=True)
    assert (await client.runtime.Attach(attach)).url == "http://streams/attach/token"
    ports = pb.PortForwardRequest(pod_sandbox_id="0001", port=[80, 443])
    assert (await client.runtime.PortForward(ports)).url == "http://streams/portforward/token"
    targets = node_pb2.ForwardRequest(
        pod_sandbox_id="0001", targets=["tcp:80", "udp:53", "unix:box:/run//x:y"]
    )
    assert (await client.node.Forward(targets)).url == "http://streams/portforward/token"
    assert node.calls == [
        ("issue exec", "0001", ExecProcess(("sh", "-i"), tty=True, stdin=True, stdout=True)),
        ("issue attach", "0001", AttachRequest(ContainerId(""), stdout=True, stderr=True)),
        ("issue forward", "0001", ForwardRequest(SandboxId(""), (80, 443))),
        ("issue forward", "0001", ForwardRequest(SandboxId(""), beyond=TARGETS)),
    ]
    node.raises = Exhausted("too many streams")
    code, message = await refused(client.runtime.Exec(exec_request))
    assert (code, message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams")


async def test_the_socket_is_closed_to_others(server: Server, node: FakeNode) -> None:
    path = node.settings.socket_path
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o751


async def test_a_directory_that_is_not_ours_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    settings = Settings(data=str(tmp_path), state=str(tmp_path / "s"), socket=str(shared / "c.sock"))
    server = Server(cast(Node, FakeNode(settings)), "1", url_for)
    await server.start()
    try:
        assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    finally:
        await server.stop(0)


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path / "d"), state=str(tmp_path))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(settings.socket_path)
    server = Server(cast(Node, FakeNode(settings)), "1", url_for)
    await server.start()
    try:
        async with aio.insecure_channel(f"unix:{settings.socket_path}") as channel:
            await api_pb2_grpc.RuntimeServiceStub(channel).Version(pb.VersionRequest())
    finally:
        await server.stop(0)


async def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    settings = Settings(state=str(tmp_path), socket=f"{tmp_path}/{'x' * 120}")
    with pytest.raises(Broken, match="at most 107 bytes"):
        await Server(cast(Node, FakeNode(settings)), "1", url_for).start()


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(data=str(tmp_path), state=str(tmp_path / "file" / "state"))
    with pytest.raises(Broken, match="cannot listen on"):
        await Server(cast(Node, FakeNode(settings)), "1", url_for).start()


async def test_stopping_lets_calls_end_within_the_grace(client: Any, node: FakeNode, server: Server) -> None:
    node.hold = asyncio.Event()
    request = pb.StartContainerRequest(container_id="abcd")
    running = asyncio.ensure_future(_awaited(client.runtime.StartContainer(request)))
    async with asyncio.timeout(BOUND):
        await node.entered.wait()
        stopping = asyncio.ensure_future(server.stop(BOUND))
        node.hold.set()
        await running
        await stopping


async def test_stopping_ends_event_streams_without_waiting_for_the_grace(
    client: Any, node: FakeNode, server: Server
) -> None:
    async with asyncio.timeout(BOUND):
        stream = client.runtime.GetContainerEvents(pb.GetEventsRequest())
        await stream.initial_metadata()
        await server.stop(10 * BOUND)
        assert await stream.read() is END


async def _awaited(call: Any) -> Any:
    return await call


async def test_a_request_that_was_refused_is_forgotten_at_once(tmp_path: Path) -> None:
    """A context that keeps its exception keeps the request, up to 16 MiB, until Python looks for circles."""
    seen: list[weakref.ref[object]] = []

    class Decoded:
        def __init__(self, _: object) -> None:
            seen.append(weakref.ref(self))

    def refuse(_: object) -> Answer:
        raise NotFound("there is no such thing")

    async def refuse_late(_: object) -> Answer:
        raise NotFound("there is no such thing")

    calls: dict[str, Call] = {
        "Read": Read(pb.VersionRequest, Decoded, refuse),
        "Verb": Verb(pb.VersionRequest, Decoded, refuse_late),
    }
    gate = ReadinessGate()
    gate.open()
    door = Door(gate, NO_AUDIT)
    methods = {f"/s/{name}": door.method(name, call) for name, call in calls.items()}
    server = GrpcServer(methods, start_call, calls_limit=10, message_limit=1000)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{tmp_path}/s")
    await server.start(listening)
    gc.disable()
    try:
        async with aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            for path in methods:
                code, _ = await refused(cast(Any, channel).unary_unary(path)(b""))
                assert code == grpc.StatusCode.NOT_FOUND
        await server.stop(0)
        assert [kept() for kept in seen] == [None, None]
    finally:
        gc.enable()
        await server.stop(0)


async def test_a_caller_who_leaves_while_he_is_written_to_is_no_failure(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    class Gone:
        metadata = ()

        timer = None

        def take_first(self) -> bytes:
            return b""

        async def write(self, _: bytes) -> None:
            raise CallerGone("the call is over")

    def parts(_: object) -> Iterator[Answer]:
        yield pb.VersionResponse()

    method = Door(server.gate, NO_AUDIT).method("Parts", Parts(pb.VersionRequest, nothing, parts))
    with pytest.raises(CallerGone):
        await method.handle(cast(Any, Gone()))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_rules_for_the_log_are_followed_listed_and_reset(client: Any, node: FakeNode) -> None:
    request = node_pb2.SetLogLevelRequest
    before = time.time_ns()
    answer = await client.node.SetLogLevel(request(level="debug", pod="web", duration_ns=5 * 10**9))
    assert [(rule.level, rule.pod) for rule in answer.rules] == [("debug", "web")]
    assert before + 5 * 10**9 <= answer.rules[0].ends_at <= time.time_ns() + 5 * 10**9
    await client.node.SetLogLevel(request(level="error"))
    assert [rule.level for rule in (await client.node.Info(node_pb2.InfoRequest())).log_rules] == [
        "debug",
        "error",
    ]
    answer = await client.node.SetLogLevel(request(level="info", reset=True))
    assert [rule.level for rule in answer.rules] == ["info"]
    assert not (await client.node.SetLogLevel(request(reset=True))).rules
    for bad, field in (
        (request(), "level"),
        (request(level="loud"), "level"),
        (request(level="debug", duration_ns=25 * 3600 * 10**9), "duration_ns"),
        (request(level="debug", duration_ns=-1), "duration_ns"),
        (request(level="debug", pod="x" * 1000), "pod"),
        (request(level="debug", caller="a\nb"), "caller"),
    ):
        code, text = await refused(client.node.SetLogLevel(bad))
        assert (code, text.partition(" ")[0].rstrip(":")) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_dump_of_the_daemon_has_its_sections(client: Any) -> None:
    (section,) = (await client.node.InspectDaemon(node_pb2.InspectDaemonRequest())).sections
    assert (section.name, list(section.lines), section.left_out) == ("tasks", ["one task"], 3)
