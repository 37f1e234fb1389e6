"""What one caller cannot do to the others: long lists, and event streams that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import grpc
import pytest
from grpc import aio

from crib.api.list_replies import MANY, STRETCH, EncodedList
from crib.api.server import Server
from crib.api.translate import containers
from crib.engine.admission import Claim
from crib.engine.events import QUEUE_LIMIT
from crib.engine.node import Node
from crib.model.container import ContainerRecord
from crib.model.errors import Unavailable
from crib.model.events import ContainerEvent, EventType
from crib.model.settings import Settings
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.stubs.runtime.v1 import api_pb2_grpc
from crib.tasks.lanes import _IS_VERB
from tests.fakes.world import bounded, until
from tests.unit.api.fake_node import FakeNode, container, sandbox

READERS = 50
EVENTS = 10_000
EVENT_BYTES = 4096
"""Of one event here, so that no buffer on the way holds what is published."""


@pytest.fixture
async def node(tmp_path: Any) -> AsyncIterator[FakeNode]:
    node = FakeNode(Settings(data=f"{tmp_path}/data", state=f"{tmp_path}/state"))
    server = Server(cast(Node, node), "9.9", lambda kind, token: f"http://{kind}/{token}")
    await server.start()
    server.gate.open()
    yield node
    await server.stop(0)


async def test_readers_who_never_read_keep_no_events_and_are_told_when_they_do(node: FakeNode) -> None:
    event = ContainerEvent(
        "c", EventType.STARTED, 1, sandbox(), (replace(container(), message="x" * EVENT_BYTES),)
    )
    async with aio.insecure_channel(f"unix:{node.settings.socket_path}") as channel, bounded():
        runtime = api_pb2_grpc.RuntimeServiceStub(channel)
        calls = [runtime.GetContainerEvents(pb.GetEventsRequest()) for _ in range(READERS)]
        await asyncio.gather(*(call.initial_metadata() for call in calls))  # they have subscribed
        subscriptions = set(node.events._subscriptions)
        assert len(subscriptions) == READERS
        for number in range(EVENTS):
            node.events.publish(event)
            if number % 100 == 0:
                await asyncio.sleep(0)
        assert not node.events._subscriptions
        assert max(each._queue.qsize() for each in subscriptions) <= 1  # the word that it has ended
        await runtime.Version(pb.VersionRequest())
        got = 0
        with pytest.raises(aio.AioRpcError) as caught:  # noqa: PT012  # it is raised in the loop
            while await calls[0].read():
                got += 1
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"more than {QUEUE_LIMIT} events behind" in (caught.value.details() or "")
        assert 0 < got < EVENTS - QUEUE_LIMIT
        for call in calls:
            call.cancel()


async def test_an_event_is_encoded_once_for_all_its_readers_and_in_the_lane_of_verbs(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else thirty readers cost each other call as much as thirty calls for each event."""
    lanes, encode = list[bool](), containers.encode_event

    def noted(event: ContainerEvent) -> pb.ContainerEventResponse:
        lanes.append(_IS_VERB.get())
        return encode(event)

    monkeypatch.setattr(containers, "encode_event", noted)
    async with aio.insecure_channel(f"unix:{node.settings.socket_path}") as channel, bounded():
        runtime = api_pb2_grpc.RuntimeServiceStub(channel)
        calls = [runtime.GetContainerEvents(pb.GetEventsRequest()) for _ in range(READERS)]
        await asyncio.gather(*(call.initial_metadata() for call in calls))
        node.events.publish(ContainerEvent("c", EventType.STARTED, 1, sandbox(), (container(),)))
        read = [await call.read() for call in calls]
        assert {cast(pb.ContainerEventResponse, answer).container_id for answer in read} == {"c"}
        assert lanes == [True]
        for call in calls:
            call.cancel()


async def test_other_calls_go_on_while_a_long_list_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = 0

    def encode(record: ContainerRecord) -> pb.Container:
        nonlocal encoded
        encoded += 1
        return containers.encode(record)

    rows = [container(number) for number in range(MANY + 1)]
    lists = EncodedList(encode)
    listing = asyncio.ensure_future(lists.prepared(rows))
    longest = before = 0
    while not listing.done():
        await asyncio.sleep(0)
        longest, before = max(longest, encoded - before), encoded
    assert await listing == rows
    assert encoded == len(rows)
    assert longest <= STRETCH
    message = pb.ListContainersResponse(containers=[containers.encode(row) for row in rows])
    assert pb.ListContainersResponse.FromString(lists.whole(rows)) == message
    assert encoded == len(rows)


async def test_a_short_list_waits_for_nothing() -> None:
    rows = [container(number) for number in range(MANY)]
    listing = EncodedList(containers.encode).prepared(rows)
    with pytest.raises(StopIteration) as ended:
        listing.send(None)
    assert ended.value.value == rows


async def test_a_server_that_stops_refuses_verbs_that_wait_for_a_place(tmp_path: Any) -> None:
    node = FakeNode(Settings(data=f"{tmp_path}/data", state=f"{tmp_path}/state"))
    server = Server(cast(Node, node), "9.9", lambda kind, token: f"http://{kind}/{token}")
    await server.start()

    async def verb(claim: Claim) -> None:
        async with node.admission.making(claim):
            await asyncio.Event().wait()

    verbs = [asyncio.ensure_future(verb(Claim("pod", False, contextlib.nullcontext))) for _ in range(2)]
    await until(lambda: node.admission.load.queued == 1)
    await server.stop(0)
    async with bounded():
        with pytest.raises(Unavailable, match="stopping"):
            await verbs[1]
    verbs[0].cancel()
