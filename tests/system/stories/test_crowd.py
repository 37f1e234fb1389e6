"""Many callers at once: what may wait waits, and what may not passes by."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.bench import crowd
from crib.bench.options import CrowdOptions, CrowdPart
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import IMAGE, Cri, Cribd, running_cribd, until
from tests.system.labs.network_lab import CniLab, LabCribd, cni_lab, cribd_on, failing_bridge

pytestmark = [pytest.mark.root, pytest.mark.system]

CALLERS = 40
CROWD = 200
CROWD_BOUND = 5000.0
"""Milliseconds, on a machine that may do much other work."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    with cni_lab(tmp_path_factory.mktemp("crowd")) as made:
        made.write(*failing_bridge(made))
        yield made


@pytest.fixture(scope="module")
def cribd(lab: CniLab) -> Iterator[LabCribd]:
    settings = lab.settings(plugin_timeout=120)
    with cribd_on(lab.host, settings, extra="making_verbs = 2") as daemon:
        yield daemon


@pytest.fixture
async def cri(lab: CniLab, cribd: LabCribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection
        lab.no_failpoints()


async def verbs(cri: Cri) -> dict[str, int]:
    """How full it is."""
    facts = (await cri.call(cri.node.Info, node_pb2.InfoRequest())).facts
    return {key.removeprefix("verbs."): int(facts[key]) for key in facts if key.startswith("verbs.")}


async def test_reads_commands_and_stops_pass_a_full_queue_and_who_leaves_it_leaves_nothing(
    lab: CniLab, cri: Cri
) -> None:
    node = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
    pod = await cri.run_pod("before", namespaces=node)
    box = await cri.run_container(pod, "sleep", "1000", namespaces=node)
    lab.forget_calls()
    gate = lab.plugins / "first.ADD"
    gate.write_text("gate")
    requests = [pb.RunPodSandboxRequest(config=cri.pod_config(f"crowd{number}")) for number in range(CALLERS)]
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(_forgiving(cri, request)) for request in requests]

        async def all_are_in() -> bool:
            load = await verbs(cri)
            return load["making"] + load["overdue"] + load["queued"] == CALLERS

        await until(all_are_in)
        load = await verbs(cri)
        assert load["places"] == 2
        assert load["queued"] > 0
        await cri.call(cri.runtime.Version, pb.VersionRequest())
        assert await cri.sh(box, "echo here") == "here"
        assert set(await cri.containers()) == {box}
        await cri.stop_container(box)
        await cri.remove_pod(pod)
        assert await cri.sandboxes() == {}
        for call in calls:
            call.cancel()

    async def queue_is_empty() -> bool:
        return (await verbs(cri))["queued"] == 0

    await until(queue_is_empty)
    gate.unlink()

    async def nothing_is_made() -> bool:
        load = await verbs(cri)
        return load["making"] + load["overdue"] == 0

    await until(nothing_is_made)
    assert 2 <= len(lab.calls("ADD", "first")) < CALLERS
    assert len(await cri.sandboxes()) == len(lab.calls("ADD", "first"))


async def _forgiving(cri: Cri, request: pb.RunPodSandboxRequest) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await cri.runtime.RunPodSandbox(request)


async def test_the_wait_for_a_place_is_shown_in_the_pods_timeline(lab: CniLab, cri: Cri) -> None:
    gate = lab.plugins / "first.ADD"
    gate.write_text("gate")
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(cri.run_pod(f"timed{number}"))

        async def one_waits() -> bool:
            return (await verbs(cri))["queued"] == 1

        await until(one_waits)
        gate.unlink()
    stages = []
    for number in range(3):
        request = node_pb2.TimelineRequest(pod=f"timed{number}")
        stages.append([stage.name for stage in (await cri.call(cri.node.Timeline, request)).stages])
    assert sorted(names[0] for names in stages) == ["RunPodSandbox", "RunPodSandbox", "queued"]


async def test_subscribers_who_leave_amid_events_are_no_failure(cri: Cri, cribd: LabCribd) -> None:
    for number in range(3):
        async with cribd.connect() as other:
            stream = other.runtime.GetContainerEvents(pb.GetEventsRequest())
            await stream.initial_metadata()
            running = asyncio.ensure_future(cri.run_pod(f"seen{number}"))
            await stream.read()
        await running
    assert "Traceback" not in cribd.log()


@pytest.fixture
def own_cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.mark.nightly
async def test_two_hundred_callers_live_and_version_is_answered(own_cribd: Cribd, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    options = CrowdOptions(
        endpoints=[f"crib={own_cribd.socket}"],
        image=IMAGE,
        callers=[CROWD],
        number=2 * CROWD,
        seconds=3.0,
        json=str(out),
    )
    await crowd.run(options, "unused")
    figures = {row["metric"]: row for row in json.loads(out.read_text())["results"]}
    for part in CrowdPart:
        assert figures[f"Version, {CROWD} callers, {part}"]["p99"] < CROWD_BOUND
        assert figures[f"{CROWD} callers, {part}"]["median"] > 0
