"""Verbs under way can be seen and given up: callers are told, names are free, what is left is taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from crib.engine.retries import FIRST_PAUSE, MAX_LEFT
from crib.model.container import ContainerState
from crib.model.errors import Aborted, Broken, Exhausted, NotFound
from crib.model.facts import KILLED, ThreadWait, Vitals
from crib.model.sandbox import SandboxState
from tests.fakes.world import IMAGE, World, bounded, container_config, pod_config, turns, until


async def failed(call: Awaitable[object], kind: type[Exception]) -> str:
    """What the call failed with, in words."""
    async with bounded():
        with pytest.raises(kind) as told:
            await call
    return str(told.value)


async def test_a_verb_under_way_is_shown_with_its_object_its_stage_and_its_callers(world: World) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    hold = world.handler.failpoints.hold("start")
    starts = [asyncio.ensure_future(world.node.containers.start(container)) for _ in range(2)]
    async with bounded():
        await hold.reached.wait()
        stopping = asyncio.ensure_future(world.node.containers.stop(container, 0))
        await turns()
        start, stop = world.node.abandon.under_way()
    assert (start.name, start.object, start.callers) == ("start container", container, 2)
    assert (start.title, start.stage) == ("default/web/app", "StartContainer app")
    assert (stop.name, stop.object, stop.stage) == ("stop container", container, "waiting for its turn")
    hold.release.set()
    async with bounded():
        await asyncio.gather(*starts, stopping)
    assert world.node.abandon.under_way() == []


async def test_a_hung_create_that_is_abandoned_tells_its_caller_and_frees_its_name(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    creating = asyncio.ensure_future(world.node.containers.create(pod, container_config("app")))
    async with bounded():
        await hold.reached.wait()
    (work,) = world.node.abandon.under_way()
    stuck = world.handler.failpoints.hold("delete", subject=work.object)
    (told,) = world.node.abandon(work.object[:12], "the disk is gone")
    assert told == f"create container {work.object}, CreateContainer app > create app"
    assert await failed(creating, Aborted) == "create container: Abandoned: the disk is gone"
    again = await world.created(pod)
    assert again != work.object
    assert world.node.containers.get(again).state is ContainerState.CREATED
    async with bounded():
        await stuck.reached.wait()
        stuck.release.set()
    await until(lambda: work.object not in world.records.containers)
    assert set(world.records.containers) == {again}


async def test_a_hung_run_that_is_abandoned_is_not_ready_and_the_next_try_of_its_name_succeeds(
    world: World,
) -> None:
    hold = world.handler.failpoints.hold("prepare_pod")
    running = asyncio.ensure_future(world.node.sandboxes.run(pod_config("web"), ""))
    async with bounded():
        await hold.reached.wait()
    (work,) = world.node.abandon.under_way()
    world.handler.failpoints.set("remove_pod=error(busy)", subject=work.object)
    world.node.abandon(work.object, "")
    assert await failed(running, Aborted) == "run sandbox: Abandoned"
    again = await world.pod("web")
    await turns()
    left = world.node.sandboxes.get(work.object)
    assert (left.state, left.abandoned) == (SandboxState.NOT_READY, True)
    assert "busy" in left.reason
    assert world.node.sandboxes.get(again).state is SandboxState.READY
    world.handler.failpoints.clear()
    await world.restarted()
    await until(lambda: set(world.records.sandboxes) == {again})
    assert await world.pod("web") == again


async def test_an_abandoned_pod_goes_with_its_containers_and_whoever_waits_for_one_is_told(
    world: World,
) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    hold = world.handler.failpoints.hold("signal")
    stopping = asyncio.ensure_future(world.node.containers.stop(container, 5))
    async with bounded():
        await hold.reached.wait()
    world.node.abandon(pod, "enough")
    assert world.node.containers.get(container).state is ContainerState.UNKNOWN
    assert "enough" in await failed(stopping, Aborted)
    await until(lambda: world.records.sandboxes == {})
    assert (world.records.containers, world.networks.held, world.handler.host.containers) == ({}, {}, {})


async def test_what_a_thread_makes_for_a_pod_that_was_abandoned_and_is_gone_is_taken_away_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, reached, goes_on = world.handler.pods.prepare, asyncio.Event(), asyncio.Event()

    async def unstoppable(record, stage):  # type: ignore[no-untyped-def]  # as the port has it
        try:
            reached.set()
            await asyncio.Event().wait()
        finally:
            await goes_on.wait()
            await prepare(record, stage)

    monkeypatch.setattr(world.handler.pods, "prepare", unstoppable)
    running = asyncio.ensure_future(world.node.sandboxes.run(pod_config("web"), ""))
    async with bounded():
        await reached.wait()
    (work,) = world.node.abandon.under_way()
    world.node.abandon(work.object, "")
    await failed(running, Aborted)
    await until(lambda: world.records.sandboxes == {})
    monkeypatch.undo()
    again = await world.pod()
    goes_on.set()
    await until(lambda: world.node.abandon.under_way() == [])
    assert set(world.handler.host.pods) == set(world.records.sandboxes) == {again}


async def test_what_a_thread_or_a_killed_program_waits_for_is_shown_with_its_object(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await world.pod()
    waits = (
        ThreadWait("foreign", "reading the log /var/log/x", pod, 7.0, False),
        ThreadWait(KILLED, "crun start x (pid 3)", pod, 70.0, True),
    )
    ports = replace(world.node._core.ports, vitals=lambda: Vitals(waiting=waits))
    monkeypatch.setattr(world.node._core, "ports", ports)
    thread, program = world.node.abandon.under_way()
    assert (thread.name, thread.stage, thread.title) == ("thread (foreign)", waits[0].what, "default/web")
    assert (program.name, program.stage, program.seconds) == ("killed program", waits[1].what, 70.0)


async def test_what_is_not_there_cannot_be_abandoned(world: World) -> None:
    with pytest.raises(NotFound):
        world.node.abandon("no-such-id", "")


@pytest.mark.parametrize("step", ["stop_pod", "remove_pod", "delete"])
async def test_a_removal_that_failed_is_tried_again_by_itself_until_nothing_is_left(
    world: World, later: Callable[[float], None], step: str
) -> None:
    pod = await world.pod()
    await world.running(pod)
    world.handler.failpoints.set(f"{step}=2*error(busy)")
    assert "busy" in await failed(world.node.sandboxes.remove(pod), Broken)
    assert world.node.sandboxes.get(pod).state is SandboxState.NOT_READY
    for _ in range(3):
        later(2 * FIRST_PAUSE)
        await turns(60)
    assert world.records.sandboxes == {}
    assert world.node.abandon.under_way() == []


async def test_what_waits_for_its_next_try_is_taken_away_at_once_when_it_is_abandoned(world: World) -> None:
    container = await world.running(await world.pod())
    world.handler.failpoints.set("delete=1*error(busy)")
    assert "busy" in await failed(world.node.containers.remove(container), Broken)
    (waits,) = world.node.abandon.under_way()
    assert (waits.object, waits.stage) == (container, f"next try within {FIRST_PAUSE:.0f} s")
    world.node.abandon(container, "")
    await until(lambda: world.records.containers == {})


async def test_a_try_that_is_under_way_when_its_object_is_abandoned_is_followed_by_the_next_at_once(
    world: World, later: Callable[[float], None]
) -> None:
    container = await world.running(await world.pod())
    world.handler.failpoints.set("delete=1*error(busy)")
    assert "busy" in await failed(world.node.containers.remove(container), Broken)
    hold = world.handler.failpoints.hold("delete")
    later(FIRST_PAUSE)
    async with bounded():
        await hold.reached.wait()
    world.node.abandon(container, "")
    world.handler.failpoints.set("delete=1*error(busy still)")
    hold.release.set()
    await until(lambda: world.records.containers == {})


async def test_who_waits_for_work_without_a_pod_is_counted_too(world: World) -> None:
    await world.pulled()
    hold = world.images.failpoints.hold("sweep")
    removing = asyncio.ensure_future(world.node.images.remove(IMAGE))
    async with bounded():
        await hold.reached.wait()
    (work,) = world.node.abandon.under_way()
    assert (work.name.partition(" sha256:")[0], work.callers) == ("remove image", 1)
    removing.cancel()
    await until(lambda: world.node.abandon.under_way()[0].callers == 0)
    hold.release.set()
    await until(lambda: world.node.abandon.under_way() == [])


async def test_a_removal_that_fails_by_a_bug_is_tried_again_too(
    world: World, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await world.created(await world.pod())
    delete, tries = world.handler.containers.delete, 0

    async def broken(record):  # type: ignore[no-untyped-def]  # as the port has it
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ZeroDivisionError("a bug")
        await delete(record)

    monkeypatch.setattr(world.handler.containers, "delete", broken)
    with pytest.raises(ZeroDivisionError):
        await world.node.containers.remove(container)
    for _ in range(2):
        later(2 * FIRST_PAUSE)
        await turns(60)
    assert (tries, world.records.containers) == (3, {})


async def test_a_stop_that_failed_is_finished_by_itself_and_the_pod_stays_until_it_is_removed(
    world: World, later: Callable[[float], None]
) -> None:
    pod = await world.pod()
    world.networks.failpoints.set("detach=1*error(plugin away)")
    assert "plugin away" in await failed(world.node.sandboxes.stop(pod), Broken)
    later(FIRST_PAUSE)
    await until(lambda: world.node.sandboxes.get(pod).released)
    assert world.node.sandboxes.get(pod).reason == ""


async def test_a_pod_whose_containers_cannot_be_removed_gets_no_more_of_them_without_end(
    world: World,
) -> None:
    pod, other = await world.pod(), await world.pod("other")
    await world.pulled()
    world.handler.failpoints.set("create=error(hung)")
    world.handler.failpoints.set("delete=error(still there)")
    for attempt in range(MAX_LEFT):
        config = container_config("app", attempt=attempt)
        assert "hung" in await failed(world.node.containers.create(pod, config), Broken)
    config = container_config("app", attempt=MAX_LEFT)
    assert "still there" in await failed(world.node.containers.create(pod, config), Exhausted)
    assert len(world.records.containers) == MAX_LEFT
    world.handler.failpoints.clear()
    await world.created(other)


async def test_a_pod_whose_sandboxes_cannot_be_removed_gets_no_more_of_them_without_end(
    world: World,
) -> None:
    world.handler.failpoints.set("prepare_pod=error(hung)")
    world.handler.failpoints.set("remove_pod=error(still there)")
    for attempt in range(MAX_LEFT):
        assert "hung" in await failed(world.pod(attempt=attempt), Broken)
    assert "still there" in await failed(world.pod(attempt=MAX_LEFT), Exhausted)
    assert len(world.records.sandboxes) == MAX_LEFT
    world.handler.failpoints.clear()
    await world.pod("other")
