"""Node plugins in the life of real pods: what they change, want ended and refuse; deaths at every step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from crib.client import events, node
from crib.client.pods import Pod
from crib.host.cgroups import Cgroups, detect_layout
from crib.stubs.node.v1 import node_pb2
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.stubs.runtime.v1 import api_pb2 as cri_pb
from tests.plugin_lab import LabPlugin, bounded
from tests.system.labs.daemon import Cri, Cribd, running_cribd
from tests.system.labs.node_plugins import listed, taking_part

pytestmark = [pytest.mark.root, pytest.mark.system]

MIB = 1 << 20
GRACE = "io.kubernetes.pod.terminationGracePeriod"
V2 = detect_layout().mode == "v2"


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@pytest.fixture
async def plugin(cri: Cri) -> AsyncIterator[LabPlugin]:
    """One that takes part; it is gone before the story's pods are."""
    made = LabPlugin()
    async with taking_part(cri, made):
        yield made


@pytest.fixture
def of_its_own() -> Iterator[Cribd]:
    with running_cribd(warm=False) as daemon:
        yield daemon


@pytest.fixture
async def mortal(of_its_own: Cribd) -> AsyncIterator[Cri]:
    """A daemon for one story, which kills it."""
    async with of_its_own.connect() as connection:
        yield connection


def read(cri: Cri, pod: Pod, container: str, v1: str, v2: str) -> str:
    """A file of a container's cgroup."""
    path = f"{cri.cribd.cgroup}/{pod.id}/{container}"
    return Cgroups(detect_layout()).read(path, v2 if V2 else v1).strip()


def memory_update(container: str, limit: int, **more: Any) -> pb.ContainerUpdate:
    update = pb.ContainerUpdate(container_id=container, **more)
    update.linux.resources.memory.limit.value = limit
    return update


async def test_what_a_plugin_changes_is_in_the_container_and_is_explained_after_a_restart_too(
    mortal: Cri,
) -> None:
    adjust = pb.ContainerAdjustment(env=[pb.KeyValue(key="COLOUR", value="blue")])
    adjust.mounts.add(destination="/from-plugin", source="/etc", type="bind", options=["bind", "ro"])
    adjust.linux.resources.memory.limit.value = 64 * MIB
    plugin = LabPlugin()
    async with taking_part(mortal, plugin):
        plugin.answers["CreateContainer"] = pb.CreateContainerResponse(adjust=adjust)
        pod = await mortal.run_pod("adjusted")
        box = await mortal.run_container(pod, "sleep", "600")
        assert await mortal.sh(box, "echo $COLOUR; ls -d /from-plugin/passwd") == "blue\n/from-plugin/passwd"
        assert read(mortal, pod, box, "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
        assert (await mortal.status(box)).resources.linux.memory_limit_in_bytes == 64 * MIB
        mortal.cribd.kill()
        mortal.cribd.start()
    told = await node.explain_container(mortal.connection, box)
    env = json.loads(told.spec)["process"]["env"]
    assert told.origins[f"/process/env/{env.index('COLOUR=blue')}"] == "NRI 10-lab"


async def test_updates_come_with_answers_and_without_and_what_fails_is_told(
    cri: Cri, plugin: LabPlugin
) -> None:
    pod = await cri.run_pod("updated")
    old = await cri.run_container(pod, "sleep", "600", name="old")
    plugin.answers["CreateContainer"] = pb.CreateContainerResponse(update=[memory_update(old, 96 * MIB)])
    new = await cri.run_container(pod, "sleep", "600", name="new")
    assert read(cri, pod, old, "memory.limit_in_bytes", "memory.max") == str(96 * MIB)
    wanted = [memory_update(new, 80 * MIB), memory_update("f" * 64, MIB), memory_update(old, 4096)]
    if not V2:
        wanted[0].linux.resources.memory.reservation.value = 40 * MIB
    answer = await plugin.update(pb.UpdateContainersRequest(update=wanted))
    assert [one.container_id for one in answer.failed] == ["f" * 64, old]
    assert read(cri, pod, new, "memory.limit_in_bytes", "memory.max") == str(80 * MIB)
    if not V2:
        assert read(cri, pod, new, "memory.soft_limit_in_bytes", "") == str(40 * MIB)
    assert (await cri.status(new)).resources.linux.memory_limit_in_bytes == 80 * MIB


async def test_an_evicted_container_is_stopped_as_its_pod_would_have_it_and_everybody_learns_why(
    cri: Cri, plugin: LabPlugin
) -> None:
    pod = await cri.run_pod("evicted")
    script = "trap 'exit 7' TERM; touch /set; while :; do sleep 0.05; done"
    box = await cri.run_container(pod, "sh", "-c", script, annotations={GRACE: "20"})
    await cri.sh(box, "until test -e /set; do sleep 0.01; done")
    eviction = pb.ContainerEviction(container_id=box, reason="this node is too hot")
    await plugin.update(pb.UpdateContainersRequest(evict=[eviction]))
    assert (await cri.exited(box)).exit_code == 7, "it had its grace"
    (end,) = await node.ends(cri.connection, box)
    assert (end.cause, end.stop.call, end.stop.grace_seconds) == ("stopped", "eviction", 20.0)
    assert end.stop.reason == "NRI plugin 10-lab: this node is too hot"
    request = node_pb2.EventsRequest(container=box)
    kept = [one async for part in events.kept(cri.connection, request) for one in part.events]
    assert [one.message for one in kept if one.action == "evicted"] == [end.stop.reason]
    assert (await plugin.until_heard("StopContainer")).container.id == box


async def test_a_plugin_that_hangs_is_dropped_and_the_container_is_made(cri: Cri, plugin: LabPlugin) -> None:
    async def never(request: Any) -> Any:
        await asyncio.Event().wait()

    plugin.answers["CreateContainer"] = never
    pod = await cri.run_pod("hung")
    box = await cri.run_container(pod, "sleep", "600")
    assert (await cri.status(box)).state == cri_pb.CONTAINER_RUNNING
    assert await listed(cri) == []
    await plugin.gone()


async def test_a_plugin_that_comes_to_a_daemon_that_was_killed_learns_the_true_state(mortal: Cri) -> None:
    plugin = LabPlugin()
    async with taking_part(mortal, plugin):
        pod = await mortal.run_pod("again")
        kept = await mortal.run_container(pod, "sleep", "600", name="kept")
        over = await mortal.run_container(pod, "sleep", "600", name="over")
        mortal.cribd.kill()
        await plugin.gone()
        mortal.cribd.start()
    await mortal.stop_container(over)
    again = LabPlugin()
    async with taking_part(mortal, again):
        request = await again.until_heard("Synchronize")
        assert [one.id for one in request.pods] == [pod.id]
        assert [(one.id, one.state) for one in request.containers] == [(kept, pb.CONTAINER_RUNNING)]
        await mortal.stop_container(kept)
        assert (await again.until_heard("StopContainer")).container.id == kept


async def life(cri: Cri) -> None:
    """All of one pod's, with one container."""
    pod = await cri.run_pod("life")
    box = await cri.run_container(pod, "sleep", "600")
    await cri.stop_container(box)
    await cri.remove_container(box)
    await cri.remove_pod(pod)


STEPS = [
    "RunPodSandbox",
    "CreateContainer",
    "PostCreateContainer",
    "StartContainer",
    "PostStartContainer",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
]


SOME = {"RunPodSandbox", "CreateContainer"}
"""Where the daemon is killed in the ordinary suite, too."""


class Stopped:
    """A call that has come, and is not answered."""

    def __init__(self) -> None:
        self.come = asyncio.Event()

    async def __call__(self, request: Any) -> Any:
        self.come.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("step", STEPS)
async def test_a_plugin_may_die_at_every_step_and_the_pods_life_goes_on(
    cri: Cri, plugin: LabPlugin, step: str
) -> None:
    plugin.answers[step] = stopped = Stopped()
    going_on = asyncio.ensure_future(life(cri))
    async with bounded():
        await stopped.come.wait()
        await plugin.close()
        await going_on
    assert await cri.containers() == {}
    assert await cri.sandboxes() == {}


@pytest.mark.parametrize(
    "step", [step if step in SOME else pytest.param(step, marks=pytest.mark.nightly) for step in STEPS]
)
async def test_the_daemon_may_be_killed_at_every_step_and_nothing_of_it_is_left(
    mortal: Cri, step: str
) -> None:
    """In the end everything is wiped, and then nothing may be left."""
    plugin = LabPlugin()
    async with taking_part(mortal, plugin):
        plugin.answers[step] = stopped = Stopped()
        going_on = asyncio.ensure_future(life(mortal))
        async with bounded():
            await stopped.come.wait()
        mortal.cribd.kill()
        going_on.cancel()  # or its client would go on with the next daemon
        await asyncio.wait([going_on])
        mortal.cribd.start()
    again = LabPlugin()
    async with taking_part(mortal, again):
        request = await again.until_heard("Synchronize")
        assert {one.id for one in request.pods} == set(await mortal.sandboxes())
        for sandbox in await mortal.sandboxes():
            await mortal.remove_pod(sandbox)
        assert set(again.calls) <= set(STEPS[5:])
        await life(mortal)
