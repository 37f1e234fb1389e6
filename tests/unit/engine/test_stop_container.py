"""StopContainer, RemoveContainer, and exits that nobody asked for."""

from __future__ import annotations

import asyncio
import signal

import pytest

from crib.engine.containers.exits import record_exit
from crib.model.container import ContainerState, Exit
from crib.model.errors import Broken, NotFound
from crib.model.events import EventType
from crib.model.ids import ContainerId
from tests.fakes.world import World, bounded, next_events, turns, until

UNKNOWN = "0123456789abcdef" * 4


async def exited(world: World, container: ContainerId) -> None:
    await until(lambda: world.node.containers.get(container).state is ContainerState.EXITED)


async def test_stop_sends_the_stop_signal_and_no_kill_to_what_obeys(world: World) -> None:
    container = await world.running(await world.pod())
    async with bounded():
        await world.node.containers.stop(container, 60.0)
    assert world.inside(container).signals == [signal.SIGTERM]
    assert world.node.containers.get(container).exit_code == 143


async def test_stop_kills_what_does_not_obey_within_its_grace(world: World) -> None:
    container = await world.running(await world.pod())
    world.inside(container).stubborn = True
    async with bounded():
        await world.node.containers.stop(container, 0.01)
    assert world.inside(container).signals == [signal.SIGTERM, signal.SIGKILL]
    assert world.node.containers.get(container).exit_code == 137


async def test_stop_without_grace_kills_at_once(world: World) -> None:
    container = await world.running(await world.pod())
    async with bounded():
        await world.node.containers.stop(container, 0)
    assert world.inside(container).signals == [signal.SIGKILL]


async def test_a_second_stop_with_a_shorter_grace_counts_and_sends_no_second_stop_signal(
    world: World,
) -> None:
    container = await world.running(await world.pod())
    world.inside(container).stubborn = True
    first = asyncio.ensure_future(world.node.containers.stop(container, 3600.0))
    await until(lambda: bool(world.inside(container).signals))
    async with bounded():
        await world.node.containers.stop(container, 0.01)
        await first
    assert world.inside(container).signals == [signal.SIGTERM, signal.SIGKILL]


async def test_a_stop_whose_signal_failed_sends_it_again_next_time(world: World) -> None:
    container = await world.running(await world.pod())
    world.handler.failpoints.set("signal=1*error(no pidfd)")
    with pytest.raises(Broken, match="no pidfd"):
        await world.node.containers.stop(container, 60.0)
    async with bounded():
        await world.node.containers.stop(container, 60.0)
    assert world.inside(container).signals == [signal.SIGTERM]


async def test_a_cancelled_caller_does_not_end_the_stop(world: World) -> None:
    container = await world.running(await world.pod())
    world.inside(container).stubborn = True
    first = asyncio.ensure_future(world.node.containers.stop(container, 3600.0))
    await until(lambda: bool(world.inside(container).signals))
    first.cancel()
    await turns()
    world.handler.host.finish(container, 0)
    await exited(world, container)
    assert world.node.containers.get(container).reason == "Completed"


async def test_stop_of_a_created_container_kills_it(world: World) -> None:
    container = await world.created(await world.pod())
    async with bounded():
        await world.node.containers.stop(container, 60.0)
    assert world.inside(container).signals == [signal.SIGKILL]
    assert world.node.containers.get(container).state is ContainerState.EXITED


async def test_stop_and_remove_of_what_is_unknown_or_ended_succeed(world: World) -> None:
    await world.node.containers.stop(UNKNOWN, 1.0)
    await world.node.containers.remove(UNKNOWN)
    container = await world.running(await world.pod(), "app", "true")
    await exited(world, container)
    await world.node.containers.stop(container, 1.0)
    assert world.inside(container).signals == []


async def test_stop_waits_for_a_start_under_way(world: World) -> None:
    container = await world.created(await world.pod())
    hold = world.handler.failpoints.hold("start")
    starting = asyncio.ensure_future(world.node.containers.start(container))
    async with bounded():
        await hold.reached.wait()
        stopping = asyncio.ensure_future(world.node.containers.stop(container, 60.0))
        await turns()
        assert world.inside(container).signals == []
        hold.release.set()
        await starting
        await stopping
    assert world.inside(container).signals == [signal.SIGTERM]


async def test_a_killed_container_whose_exit_nobody_tells_is_looked_at_and_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.engine.containers.stop.KILL_BOUND", 0.0)
    container = await world.running(await world.pod())
    world.handler.host.vanish(container)
    async with bounded():
        await world.node.containers.stop(container, 0)
    record = world.node.containers.get(container)
    assert (record.exit_code, record.reason) == (255, "Unknown")


async def test_a_container_that_cannot_be_killed_is_an_error_that_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.engine.containers.stop.KILL_BOUND", 0.0)
    container = await world.running(await world.pod())
    world.inside(container).immortal = True
    with pytest.raises(Broken, match="still running"):
        await world.node.containers.stop(container, 0)
    assert world.node.containers.get(container).state is ContainerState.RUNNING


LATE = 1 << 62
"""A time after every other."""


@pytest.mark.parametrize(
    ("exit_", "code", "reason"),
    [
        (Exit(ContainerId(""), 0, LATE), 0, "Completed"),
        (Exit(ContainerId(""), 3, LATE), 3, "Error"),
        (Exit(ContainerId(""), 137, LATE, oom_killed=True), 137, "OOMKilled"),
        (Exit(ContainerId(""), 255, LATE, lost=True), 255, "Unknown"),
    ],
)
async def test_an_exit_is_recorded_with_code_time_and_reason(
    world: World, exit_: Exit, code: int, reason: str
) -> None:
    container = await world.running(await world.pod())
    told = Exit(container, exit_.code, exit_.at, oom_killed=exit_.oom_killed, lost=exit_.lost)
    await record_exit(world.node._core, told)
    record = world.node.containers.get(container)
    assert (record.state, record.exit_code, record.finished_at, record.reason) == (
        "exited",
        code,
        LATE,
        reason,
    )
    assert bool(record.message) is exit_.lost


async def test_a_second_exit_is_ignored(world: World) -> None:
    container = await world.running(await world.pod())
    subscription = world.node.events.subscribe()
    first = world.handler.host.finish(container, 3)
    world.handler.host.finish(container, 99)
    await exited(world, container)
    await turns()
    record = world.node.containers.get(container)
    assert (record.exit_code, record.finished_at) == (3, first.at)
    (event,) = await next_events(subscription, 1)
    assert event.type is EventType.STOPPED
    assert subscription._queue.empty()


async def test_an_exit_of_what_is_not_known_is_ignored_and_the_watch_goes_on(world: World) -> None:
    container = await world.running(await world.pod())
    await record_exit(world.node._core, Exit(ContainerId(UNKNOWN), 1, 1))
    other = await world.pod("other")
    world.handler.host.finish(container, 3)
    second = await world.running(other)
    world.handler.host.finish(second, 4)
    await exited(world, second)


async def test_an_exit_during_the_create_is_left_to_the_create(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create_late")
    creating = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await hold.reached.wait()
        (container,) = world.handler.host.containers
        world.handler.host.finish(container, 1)
        await turns()
        hold.release.set()
        assert await creating == container
    await exited(world, container)


async def test_remove_kills_what_runs_and_takes_every_trace(world: World) -> None:
    container = await world.running(await world.pod())
    subscription = world.node.events.subscribe()
    async with bounded():
        await world.node.containers.remove(container)
    assert (world.records.containers, world.handler.host.containers) == ({}, {})
    with pytest.raises(NotFound):
        world.node.containers.get(container)
    assert [event.type for event in await next_events(subscription, 2)] == [
        EventType.STOPPED,
        EventType.DELETED,
    ]


async def test_a_remove_that_fails_keeps_the_row_unknown_and_the_retry_finishes(world: World) -> None:
    container = await world.running(await world.pod())
    world.handler.failpoints.set("delete=1*error(device busy)")
    with pytest.raises(Broken, match="device busy"):
        await world.node.containers.remove(container)
    record = world.node.containers.get(container)
    assert (record.state, record.reason, record.message) == ("unknown", "RemoveError", "device busy")
    async with bounded():
        await world.node.containers.stop(container, 1.0)
        await world.node.containers.remove(container)
    assert world.records.containers == {}


async def test_two_removes_at_once_are_one(world: World) -> None:
    container = await world.created(await world.pod())
    hold = world.handler.failpoints.hold("delete")
    both = [asyncio.ensure_future(world.node.containers.remove(container)) for _ in range(2)]
    async with bounded():
        await hold.reached.wait()
        await turns()
        hold.release.set()
        await asyncio.gather(*both)
    assert world.handler.failpoints.count("delete") == 1
    await world.node.containers.remove(container)


async def test_a_program_that_the_kernel_refused_is_a_start_error_with_the_runtimes_words(
    world: World,
) -> None:
    container = await world.running(await world.pod())
    words = "exec container process `/bin/bad`: Exec format error"
    await record_exit(world.node._core, Exit(container, 1, 99, never_ran=words))
    record = world.node.containers.get(container)
    assert (record.reason, record.exit_code, record.message) == ("StartError", 128, words)


async def test_memory_is_the_reason_whatever_the_first_process_made_of_it(world: World) -> None:
    container = await world.running(await world.pod())
    await record_exit(world.node._core, Exit(container, 0, 99, oom_killed=True))
    record = world.node.containers.get(container)
    assert (record.reason, record.exit_code) == ("OOMKilled", 0)
