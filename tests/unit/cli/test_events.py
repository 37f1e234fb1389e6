"""`crib events`: what it asks for, and the lines that it prints, of crib and of another runtime."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli import events
from crib.cli.forms import Format
from crib.cli.history_options import EventsOptions, EventSort
from crib.cli.session import CliSession, CommandError
from crib.client import Connection, pods
from crib.client import events as client
from crib.stubs.node.v1.node_pb2 import Event, EventsCut, EventsRequest
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.client.fake_runtime import World, serve

NOW = 1_764_460_123_000_000_000


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    """Of a runtime that keeps no events."""
    server = await serve(f"{tmp_path}/s", world)
    yield CliSession(f"unix://{tmp_path}/s")
    await server.stop(None)


def test_a_long_number_is_a_cursor_and_anything_else_a_time() -> None:
    def asked(**options: object) -> EventsRequest:
        return events._request(EventsOptions(**options), NOW)  # type: ignore[arg-type]  # fields by name

    assert asked(since="1764460123460") == EventsRequest(after=1764460123460)
    assert asked(since="10m") == EventsRequest(since=NOW - 600 * 10**9)
    assert asked(since="2025-11-29T23:48:43Z") == EventsRequest(since=NOW)
    assert asked() == EventsRequest()
    assert asked(follow=True) == EventsRequest(follow=True, since=NOW)
    assert asked(follow=True, since="1764460123460") == EventsRequest(follow=True, after=1764460123460)
    wanted = asked(kinds=[EventSort.POD], namespace="a", pod="b", container="c")
    assert wanted == EventsRequest(kinds=["pod"], namespace="a", pod="b", container="c")
    with pytest.raises(CommandError, match=r"--since 'yesterday' .* nor the number of an event"):
        asked(since="yesterday")


def test_a_line_has_the_number_the_object_and_the_exit_code() -> None:
    stopped = Event(
        number=7, at=NOW, kind="container", action="stopped", pod="default/web", name="app", exit_code=0
    )
    assert events.line(stopped).split("  ")[0] == "7"
    assert "default/web/app  exit code 0" in events.line(stopped)
    pulled = Event(number=8, at=NOW, kind="image", action="pulled", name="busybox:1", id="sha256:abc")
    assert events.line(pulled).endswith("busybox:1")
    cut = EventsCut(after=7, resumes_at=20, resumes_at_time=NOW)
    assert events.cut_line(cut).startswith("events after 7 are no longer kept: going on with 20 of 20")


async def test_of_a_runtime_that_keeps_no_events_only_those_to_come_can_be_had(session: CliSession) -> None:
    with pytest.raises(CommandError, match="keeps no events; follow those to come with -f"):
        await events.events(session, EventsOptions())


async def test_another_runtimes_events_are_shown_as_they_come_and_chosen_here(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    showing = asyncio.ensure_future(
        events.events(session, EventsOptions(follow=True, output=Format.JSON, kinds=[EventSort.CONTAINER]))
    )
    async with asyncio.timeout(60), Connection(session.endpoint) as runtime:
        while not world.subscribers:  # noqa: ASYNC110  # the fake gives no notice
            await asyncio.sleep(0)
        world.add_image("demo")
        metadata = cri.PodSandboxMetadata(name="web", uid="u", namespace="default")
        box = cri.ContainerConfig(metadata=cri.ContainerMetadata(name="a"), image=cri.ImageSpec(image="demo"))
        pod = await pods.run(runtime, cri.PodSandboxConfig(metadata=metadata), [box])
        world.exited(pod.containers["a"], 3)
        shown = ""
        while "stopped" not in shown:
            await asyncio.sleep(0)
            shown += capsys.readouterr().out
    showing.cancel()
    await asyncio.wait([showing])
    found = [json.loads(line) for line in shown.splitlines()]
    assert {one["kind"] for one in found} == {"container"}
    assert (found[-1]["action"], found[-1]["id"]) == ("stopped", pod.containers["a"])


def test_an_event_of_the_cri_has_the_same_form() -> None:
    pod = cri.PodSandboxStatus(id="p1", metadata=cri.PodSandboxMetadata(name="web", namespace="default"))
    metadata = cri.ContainerMetadata(name="app")
    ended = cri.ContainerStatus(id="c1", metadata=metadata, exit_code=3, reason="Error")
    found = cri.ContainerEventResponse(
        container_id="c1",
        container_event_type=cri.CONTAINER_STOPPED_EVENT,
        created_at=NOW,
        pod_sandbox_status=pod,
        containers_statuses=[ended],
    )
    event = client._as_event(found)
    assert event == Event(
        at=NOW,
        kind="container",
        action="stopped",
        id="c1",
        pod_sandbox_id="p1",
        pod="default/web",
        name="app",
        exit_code=3,
        message="Error",
    )
    found.container_id = "p1"
    assert client._as_event(found).kind == "pod"


def test_events_are_chosen_as_crib_chooses_them() -> None:
    event = Event(kind="container", id="abcd1", pod_sandbox_id="ef011", pod="default/web", name="app")
    for chosen in (
        EventsRequest(),
        EventsRequest(kinds=["pod", "container"], namespace="default", pod="web", container="app"),
        EventsRequest(pod="ef01", container="abcd"),
        EventsRequest(pod="default/web"),
    ):
        assert client.has(chosen, event)
    for other in (
        EventsRequest(kinds=["pod"]),
        EventsRequest(namespace="kube-system"),
        EventsRequest(pod="dns"),
        EventsRequest(container="box"),
    ):
        assert not client.has(other, event)
