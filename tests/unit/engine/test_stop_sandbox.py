"""StopPodSandbox and RemovePodSandbox."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crib.model.container import ContainerState
from crib.model.errors import Broken, NotFound, WrongState
from crib.model.events import EventType
from crib.model.sandbox import SandboxState
from tests.fakes.world import World, bounded, container_config, next_events, until

UNKNOWN = "0123456789abcdef" * 4


async def test_stop_kills_the_containers_gives_back_the_network_and_keeps_the_row(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    async with bounded():
        await world.node.sandboxes.stop(pod)
    assert world.node.containers.get(container).state is ContainerState.EXITED
    assert world.node.containers.get(container).exit_code == 137
    assert world.networks.held == {}
    assert not world.handler.host.pods[pod].alive
    record = world.node.sandboxes.get(pod)
    assert (record.state, record.reason, record.released) == (SandboxState.NOT_READY, "", True)


async def test_stop_again_does_nothing(world: World) -> None:
    pod = await world.pod()
    await world.node.sandboxes.stop(pod)
    calls = len(world.handler.failpoints.calls)
    await world.node.sandboxes.stop(pod)
    assert len(world.handler.failpoints.calls) == calls


async def test_stop_and_remove_of_an_unknown_sandbox_succeed(world: World) -> None:
    await world.node.sandboxes.stop(UNKNOWN)
    await world.node.sandboxes.remove(UNKNOWN)


async def test_two_stops_at_once_are_one(world: World) -> None:
    pod = await world.pod()
    hold = world.networks.failpoints.hold("detach")
    first = asyncio.ensure_future(world.node.sandboxes.stop(pod))
    second = asyncio.ensure_future(world.node.sandboxes.stop(pod))
    async with bounded():
        await hold.reached.wait()
        hold.release.set()
        await asyncio.gather(first, second)
    assert world.networks.failpoints.count("detach") == 1


async def test_a_stop_step_that_fails_is_told_the_rest_is_done_and_the_retry_finishes(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    world.networks.failpoints.set("detach=1*error(plugin gone)")
    with pytest.raises(Broken, match="plugin gone"):
        await world.node.sandboxes.stop(pod)
    record = world.node.sandboxes.get(pod)
    assert (record.state, record.released) == (SandboxState.NOT_READY, False)
    assert "plugin gone" in record.reason
    assert world.node.containers.get(container).state is ContainerState.EXITED
    # A plugin may need the namespace when it is called again (CNI specification, DEL).
    assert world.handler.host.pods[pod].alive
    await world.node.sandboxes.stop(pod)
    assert not world.handler.host.pods[pod].alive
    assert world.node.sandboxes.get(pod).released
    assert world.node.sandboxes.get(pod).reason == ""


async def test_a_bug_in_a_stop_step_does_not_keep_the_others_from_their_work(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    world.handler.failpoints.set("signal=1*bug(oops)")
    with pytest.raises(Broken, match="RuntimeError: oops"):
        await world.node.sandboxes.stop(pod)
    assert world.networks.held == {}
    assert not world.handler.host.pods[pod].alive
    await world.node.sandboxes.stop(pod)
    assert world.node.containers.get(container).state is ContainerState.EXITED


async def test_a_container_that_cannot_be_killed_fails_the_stop_but_not_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.engine.containers.stop.KILL_BOUND", 0.0)
    pod = await world.pod()
    stuck, other = await world.running(pod, "stuck"), await world.running(pod, "other")
    world.inside(stuck).immortal = True
    with pytest.raises(Broken, match=f"container {stuck} is still running"):
        await world.node.sandboxes.stop(pod)
    await until(lambda: world.node.containers.get(other).state is ContainerState.EXITED)
    assert world.networks.held == {}


async def test_remove_takes_every_trace(world: World) -> None:
    pod = await world.pod()
    await world.running(pod)
    async with bounded():
        await world.node.sandboxes.remove(pod)
    assert world.records.sandboxes == {}
    assert world.records.containers == {}
    assert world.handler.host.pods == {}
    assert world.handler.host.containers == {}
    assert world.networks.held == {}
    with pytest.raises(NotFound):
        world.node.sandboxes.get(pod)


@pytest.mark.parametrize("point", ["remove_pod", "delete"])
async def test_a_remove_that_fails_keeps_the_row_for_the_next_try(world: World, point: str) -> None:
    pod = await world.pod()
    await world.running(pod)
    world.handler.failpoints.set(f"{point}=1*error(busy)")
    with pytest.raises(Broken, match="busy"):
        await world.node.sandboxes.remove(pod)
    record = world.node.sandboxes.get(pod)
    assert record.state is SandboxState.NOT_READY
    assert "busy" in record.reason
    await world.node.sandboxes.remove(pod)
    assert (world.records.sandboxes, world.records.containers) == ({}, {})


@pytest.mark.parametrize("what", ["sandboxes", "containers"])
async def test_who_asks_again_for_a_remove_that_is_under_way_is_told_how_it_ends(
    world: World, what: str
) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    verbs: dict[str, Any] = {
        "sandboxes": (world.node.sandboxes.remove, pod),
        "containers": (world.node.containers.remove, container),
    }
    remove, known = verbs[what]
    hold = world.handler.failpoints.hold("delete")
    world.handler.failpoints.set("delete=1*error(no descriptor left)")
    async with bounded():
        first = asyncio.ensure_future(remove(known))
        await hold.reached.wait()  # it is not in the lists any more
        first.cancel()
        second = asyncio.ensure_future(remove(known))
        await asyncio.sleep(0)
        hold.release.set()
        with pytest.raises(Broken, match="no descriptor left"):
            await second
    await remove(known)


async def test_events_of_a_pods_end_come_in_order_and_carry_the_sandbox(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    subscription = world.node.events.subscribe()
    async with bounded():
        await world.node.sandboxes.stop(pod)
        await world.node.sandboxes.remove(pod)
    events = await next_events(subscription, 4)
    assert [(event.container_id, event.type) for event in events] == [
        (container, EventType.STOPPED),
        (pod, EventType.STOPPED),
        (container, EventType.DELETED),
        (pod, EventType.DELETED),
    ]
    # The kubelet drops an event without a sandbox.
    assert all(event.sandbox is not None and event.sandbox.id == pod for event in events)
    assert events[0].containers[0].state is ContainerState.EXITED


async def test_stop_during_a_create_waits_for_a_whole_container_and_ends_it(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    creating = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await hold.reached.wait()
        stopping = asyncio.ensure_future(world.node.sandboxes.stop(pod))
        await until(lambda: world.node.sandboxes.get(pod).state is SandboxState.NOT_READY)
        assert not stopping.done()
        hold.release.set()
        container = await creating
        await stopping
    assert world.node.containers.get(container).state is ContainerState.EXITED
    assert world.handler.host.containers[container].status == "stopped"


async def test_stop_during_a_create_that_fails_leaves_no_container(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create_late")
    world.handler.failpoints.set("create_late=1*error(no such image user)")
    creating = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await hold.reached.wait()
        stopping = asyncio.ensure_future(world.node.sandboxes.stop(pod))
        await until(lambda: world.node.sandboxes.get(pod).state is SandboxState.NOT_READY)
        hold.release.set()
        with pytest.raises(Broken):
            await creating
        await stopping
    assert world.records.containers == {}
    assert world.handler.host.containers == {}


async def test_no_container_is_created_in_a_stopped_sandbox(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    await world.node.sandboxes.stop(pod)
    with pytest.raises(WrongState, match="not-ready"):
        await world.node.containers.create(pod, container_config())
    assert world.records.containers == {}


async def test_no_container_is_started_in_a_stopped_sandbox(world: World) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    hold = world.networks.failpoints.hold("detach")
    stopping = asyncio.ensure_future(world.node.sandboxes.stop(pod))
    async with bounded():
        await hold.reached.wait()
        with pytest.raises(WrongState):
            await world.node.containers.start(container)
        hold.release.set()
        await stopping
