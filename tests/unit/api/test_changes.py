"""What an auditor is told of calls: a real server on a unix socket, with a fake node behind it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from grpc import aio

from crib.api.changes import CHANGES, _said
from crib.api.server import Server
from crib.engine.node import Node
from crib.model.caller import AuditEntry, CallObject, Peer
from crib.model.errors import InvalidRequest, NotFound
from crib.model.finding import Finding
from crib.model.settings import Settings
from crib.stubs.node.v1 import node_pb2, node_pb2_grpc
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.stubs.runtime.v1 import api_pb2_grpc
from tests.unit.api.fake_node import FakeNode, container, sandbox

BOUND = 60.0
KUBELET = Peer(812, 0, "/usr/bin/kubelet")
READS = re.compile(
    r"(List|Stream|Explain|Inspect|Get|Follow|Watch|Why|Show)\w*|Events|\w*(Version|Status|Info|Stats|Timeline|Usage)|RuntimeConfig"
)
"""Calls that change nothing."""


class Auditor:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.entries = asyncio.Queue[AuditEntry]()
        self.looked: list[int] = []
        self.node: FakeNode | None = None

    async def peers(self) -> tuple[Peer, ...]:
        assert self.node is not None
        self.looked.append(len(self.node.calls))
        return (KUBELET,)

    def put(self, entry: AuditEntry) -> None:
        self.entries.put_nowait(entry)

    async def next(self) -> AuditEntry:
        async with asyncio.timeout(BOUND):
            return await self.entries.get()


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(Settings(data=str(tmp_path / "data"), state=str(tmp_path / "state")))


@pytest.fixture
async def auditor(node: FakeNode) -> AsyncIterator[Auditor]:
    auditor = Auditor()
    auditor.node = node
    server = Server(cast(Node, node), "9.9", lambda kind, token: f"http://{kind}/{token}", auditor)
    await server.start()
    server.gate.open()
    yield auditor
    await server.stop(0)


@pytest.fixture
async def client(auditor: Auditor, node: FakeNode) -> AsyncIterator[Any]:
    async with aio.insecure_channel(f"unix:{node.settings.socket_path}") as channel:
        yield SimpleNamespace(
            runtime=api_pb2_grpc.RuntimeServiceStub(channel),
            images=api_pb2_grpc.ImageServiceStub(channel),
            node=node_pb2_grpc.NodeStub(channel),
            channel=channel,
        )


def methods() -> set[str]:
    services = [*pb.DESCRIPTOR.services_by_name.values(), *node_pb2.DESCRIPTOR.services_by_name.values()]
    return {method.name for service in services for method in service.methods}


def test_every_call_either_changes_something_or_does_not() -> None:
    assert {name for name in methods() if not READS.fullmatch(name)} == set(CHANGES)


async def test_an_entry_says_who_asked_for_what_and_what_became_of_it(client: Any, auditor: Auditor) -> None:
    request = pb.StopContainerRequest(container_id=container().id)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    await client.runtime.StopContainer(request, metadata=[("traceparent", f"00-{trace}-00f067aa0ba902b7-01")])
    entry = await auditor.next()
    assert (entry.verb, entry.code, entry.error, entry.trace) == ("StopContainer", "OK", "", trace)
    assert entry.caller.peers == (KUBELET,)
    assert entry.caller.agent.startswith("grpc-python-asyncio/")
    assert entry.object.known() == {
        "pod": "space/pod1",
        "sandbox": sandbox().id,
        "container": container().id,
        "name": "ctr1",
    }
    assert entry.at > 1.7e18
    assert 0 < entry.duration < BOUND * 1e9


async def test_who_is_there_is_known_before_anything_changes(
    client: Any, auditor: Auditor, node: FakeNode
) -> None:
    await client.runtime.StopContainer(pb.StopContainerRequest(container_id=container().id))
    assert auditor.looked == [0]
    assert len(node.calls) == 1


async def test_what_is_made_is_named_by_its_id_and_its_image(client: Any, auditor: Auditor) -> None:
    pod = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="p", uid="u", namespace="n"))
    await client.runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=pod))
    assert (await auditor.next()).object.known() == {"pod": "n/p", "sandbox": sandbox().id}
    wanted = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"),
        image=pb.ImageSpec(image="sha256:" + "1" * 64, user_specified_image="busybox"),
    )
    await client.runtime.CreateContainer(
        pb.CreateContainerRequest(pod_sandbox_id="unknown", config=wanted, sandbox_config=pod)
    )
    assert (await auditor.next()).object.known() == {
        "pod": "n/p",
        "sandbox": "unknown",
        "container": container().id,
        "name": "c",
        "image": "sha256:" + "1" * 64,
    }
    await client.images.PullImage(
        pb.PullImageRequest(image=pb.ImageSpec(image="busybox"), sandbox_config=pod)
    )
    assert (await auditor.next()).object.known() == {"pod": "n/p", "image": "busybox"}


async def test_reads_are_not_told_of(client: Any, auditor: Auditor) -> None:
    await client.runtime.ListContainers(pb.ListContainersRequest())
    _ = [one async for one in client.node.CheckImages(node_pb2.CheckImagesRequest())]
    await client.runtime.StopContainer(pb.StopContainerRequest(container_id=container().id))
    assert (await auditor.next()).verb == "StopContainer"
    assert len(auditor.looked) == 1


async def test_a_stream_that_changes_something_is_told_of_at_its_end(client: Any, auditor: Auditor) -> None:
    request = node_pb2.CheckImagesRequest(repair=True)
    assert [one async for one in client.node.CheckImages(request)]
    entry = await auditor.next()
    assert (entry.verb, entry.code, entry.caller.peers) == ("CheckImages", "OK", (KUBELET,))


async def test_a_stream_that_opens_before_its_first_message_opens_once(
    client: Any, auditor: Auditor, node: FakeNode
) -> None:
    async def check(*, repair: bool, quick: bool) -> AsyncIterator[Finding]:
        assert (repair, quick) == (True, False)
        yield Finding("images", "sha256:1", "is torn")

    node.check = check
    assert len([one async for one in client.node.CheckNode(node_pb2.CheckNodeRequest(repair=True))]) == 1
    assert (await auditor.next()).code == "OK"


async def test_a_refusal_is_told_with_its_code_and_text(
    client: Any, auditor: Auditor, node: FakeNode
) -> None:
    node.raises = NotFound("there is no container 'nothing'")
    with pytest.raises(aio.AioRpcError) as caught:
        await client.runtime.StartContainer(pb.StartContainerRequest(container_id="nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    entry = await auditor.next()
    assert (entry.code, entry.error) == ("NOT_FOUND", "there is no container 'nothing'")
    assert entry.object.known() == {"container": "nothing"}


async def test_what_is_no_request_is_told_of_without_an_object(client: Any, auditor: Auditor) -> None:
    call = client.channel.unary_unary("/runtime.v1.RuntimeService/StopContainer")
    with pytest.raises(aio.AioRpcError):
        await call(b"\xff\xff")
    entry = await auditor.next()
    assert (entry.code, entry.object.known(), entry.caller.peers) == ("INVALID_ARGUMENT", {}, ())


async def test_a_caller_that_does_not_wait_is_told_of_as_cancelled(
    client: Any, auditor: Auditor, node: FakeNode
) -> None:
    node.hold = asyncio.Event()
    call = client.runtime.StopContainer(pb.StopContainerRequest(container_id=container().id))
    async with asyncio.timeout(BOUND):
        await node.entered.wait()
    call.cancel()
    entry = await auditor.next()
    assert (entry.code, entry.caller.peers) == ("CANCELLED", (KUBELET,))


def test_a_request_is_asked_only_for_fields_that_it_has() -> None:
    """A message takes long to say that it has no such field, and every changing call is looked at."""

    class Strict:
        DESCRIPTOR = pb.StopContainerRequest.DESCRIPTOR
        container_id = "some container"

        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

    assert _said(Strict()) == CallObject(container="some container")


async def test_a_huge_name_is_cut(client: Any, auditor: Auditor, node: FakeNode) -> None:
    node.raises = InvalidRequest("no")
    with pytest.raises(aio.AioRpcError):
        await client.runtime.StopContainer(pb.StopContainerRequest(container_id="x" * 1_000_000))
    assert len((await auditor.next()).object.container) <= 256


def secret_fields() -> dict[str, str]:
    """Fields of requests that are credentials, by their paths."""
    found: dict[str, str] = {}

    def walk(message: Any, path: str, depth: int) -> None:
        for field in message.fields:
            if field.type == FieldDescriptor.TYPE_MESSAGE and depth < 6:
                walk(field.message_type, f"{path}.{field.name}", depth + 1)
            elif field.name in ("password", "identity_token", "registry_token"):
                found[f"{path}.{field.name}"] = field.name

    for file in (pb.DESCRIPTOR, node_pb2.DESCRIPTOR):
        for name, message in file.message_types_by_name.items():
            if name.endswith("Request"):
                walk(message, name, 0)
    return found


SECRET = "s3cr3t-"


def requests_with_secrets() -> list[tuple[str, str, Any, list[str]]]:
    """Service, method, a request, and what of it must not be told."""
    secrets = [f"{SECRET}{number}" for number in range(12)]
    env = [pb.KeyValue(key="TOKEN", value=secrets[0].encode())]
    pod = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="p", uid="u", namespace="n"), annotations={"a": secrets[1]}
    )
    wanted = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"),
        image=pb.ImageSpec(image="busybox", annotations={"a": secrets[2]}),
        envs=env,
        annotations={"b": secrets[3]},
    )
    auth = pb.AuthConfig(
        username=secrets[4], password=secrets[5], identity_token=secrets[6], registry_token=secrets[7]
    )
    own = node_pb2.Credentials(
        username=secrets[8], password=secrets[9], identity_token=secrets[10], registry_token=secrets[11]
    )
    image = pb.ImageSpec(image="busybox", annotations={"a": secrets[2]})
    return [
        ("runtime", "RunPodSandbox", pb.RunPodSandboxRequest(config=pod), secrets[1:2]),
        (
            "runtime",
            "CreateContainer",
            pb.CreateContainerRequest(pod_sandbox_id="x", config=wanted, sandbox_config=pod),
            secrets[:4],
        ),
        ("images", "PullImage", pb.PullImageRequest(image=image, auth=auth), [secrets[2], *secrets[4:8]]),
        (
            "node",
            "PullImageProgress",
            node_pb2.PullProgressRequest(image="busybox", start=True, credentials=own),
            secrets[8:12],
        ),
    ]


@pytest.mark.parametrize("case", requests_with_secrets(), ids=lambda case: case[1])
async def test_secrets_of_a_request_are_not_told_even_if_the_error_has_them(
    client: Any, auditor: Auditor, node: FakeNode, case: tuple[str, str, Any, list[str]]
) -> None:
    service, method, request, secrets = case
    node.raises = InvalidRequest("bad: " + ", ".join(secrets))
    node.images.follow_pull = node.refused_follow
    call = getattr(getattr(client, service), method)(request)
    with pytest.raises(aio.AioRpcError) as caught:
        await call if service != "node" else [one async for one in call]
    assert secrets[0] in (caught.value.details() or "")
    entry = await auditor.next()
    assert entry.error == "bad: " + ", ".join("…" for _ in secrets)
    assert SECRET not in str(entry)


def test_credentials_are_where_they_are_looked_for() -> None:
    places = {path.rsplit(".", 2)[-2] for path in secret_fields()}
    assert places == {"auth", "credentials"}


async def test_without_an_auditor_nobody_looks(node: FakeNode) -> None:
    server = Server(cast(Node, node), "9.9", lambda kind, token: "")
    await server.start()
    server.gate.open()
    async with aio.insecure_channel(f"unix:{node.settings.socket_path}") as channel:
        stub: Any = api_pb2_grpc.RuntimeServiceStub(channel)
        await stub.StopContainer(pb.StopContainerRequest(container_id=container().id))
    await server.stop(0)
    assert os.path.exists(node.settings.state)


def http2_request(path: str, message: bytes) -> bytes:
    """A whole client: preface, settings, the head with literal fields (RFC 7541, 6.2.2), and the message."""

    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content

    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    head = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    body = struct.pack(">BI", 0, len(message)) + message
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")
        + frame(1, 4, 1, head)
        + frame(0, 1, 1, body)
    )


async def test_a_caller_that_leaves_at_once_is_blamed_on_nobody_else(
    client: Any, auditor: Auditor, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has gone when somebody looks: only another client is there. Then nothing is done for it."""
    await client.runtime.Version(pb.VersionRequest())

    async def peers() -> tuple[Peer, ...]:
        leaver.close()  # on the loop, which does not hear of it before this returns
        return (KUBELET,)

    monkeypatch.setattr(auditor, "peers", peers)
    request = pb.ExecRequest(container_id=container().id, cmd=["sh"], stdout=True)
    leaver = socket.socket(socket.AF_UNIX)
    leaver.connect(node.settings.socket_path)
    leaver.sendall(http2_request("/runtime.v1.RuntimeService/Exec", request.SerializeToString()))
    entry = await auditor.next()
    assert (entry.verb, entry.code, entry.caller.peers) == ("Exec", "CANCELLED", ())
    assert node.calls == []
