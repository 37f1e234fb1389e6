"""Joined work, its keeper, and locks."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from crib.engine.joins import Joins
from crib.engine.locks import Locks
from crib.model.errors import Broken, Unavailable
from crib.tasks.keeper import TaskKeeper
from tests.fakes.world import World, bounded, container_config, turns


class Work:
    """Counts how often it was begun; goes on when told."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return number


async def test_equal_requests_share_one_piece_of_work_and_others_have_their_own() -> None:
    joins: Joins[int] = Joins(TaskKeeper(), "test")
    work, other = Work(), Work()
    tasks = [asyncio.ensure_future(joins.join("a", "subject", work)) for _ in range(3)]
    tasks.append(asyncio.ensure_future(joins.join("b", "other", other)))
    await turns()
    assert joins.running("a") == "subject"
    work.go.set()
    other.go.set()
    async with bounded():
        assert await asyncio.gather(*tasks) == [1, 1, 1, 1]
    assert (work.begun, other.begun) == (1, 1)
    await turns()
    assert joins.running("a") is None
    async with bounded():
        assert await joins.join("a", "subject", work) == 2


async def test_a_failure_reaches_every_caller() -> None:
    joins: Joins[int] = Joins(TaskKeeper(), "test")
    work = Work()
    work.error = Broken("no")
    work.go.set()
    async with bounded():
        results = await asyncio.gather(
            *(joins.join("a", None, work) for _ in range(2)), return_exceptions=True
        )
    assert [str(error) for error in results] == ["no", "no"]


async def test_without_a_linger_work_goes_on_when_all_callers_have_gone() -> None:
    keeper = TaskKeeper()
    joins: Joins[int] = Joins(keeper, "test")
    work = Work()
    caller = asyncio.ensure_future(joins.join("a", None, work))
    await turns()
    (task,) = keeper._tasks
    caller.cancel()
    await turns()
    work.go.set()
    async with bounded():
        assert await task == 1


async def test_the_linger_begins_anew_with_each_last_caller() -> None:
    joins: Joins[int] = Joins(TaskKeeper(), "test", linger=lambda: 3600.0)
    work = Work()
    timers: list[asyncio.TimerHandle | None] = []
    for _ in range(2):
        caller = asyncio.ensure_future(joins.join("a", None, work))
        await turns()
        assert joins._joined["a"].timer is None
        caller.cancel()
        await turns()
        timers.append(joins._joined["a"].timer)
    first, second = timers
    assert first is not None
    assert second is not None
    assert (first.cancelled(), second.cancelled()) == (True, False)
    work.go.set()
    await turns()
    assert second.cancelled()


async def test_who_comes_when_lingering_work_is_being_ended_starts_anew() -> None:
    joins: Joins[int] = Joins(TaskKeeper(), "test", linger=lambda: 0.0)
    work, ending = Work(), asyncio.Event()

    async def slow_to_end() -> int:
        try:
            return await work()
        finally:
            await asyncio.shield(ending.wait())

    caller = asyncio.ensure_future(joins.join("a", None, slow_to_end))
    await turns()
    caller.cancel()
    await turns()
    assert joins.running("a") is None
    second = asyncio.ensure_future(joins.join("a", None, slow_to_end))
    await turns()
    work.go.set()
    ending.set()
    async with bounded():
        assert await second == 2


async def test_only_work_that_nobody_waits_for_is_ended_as_abandoned() -> None:
    joins: Joins[int] = Joins(TaskKeeper(), "test")
    left, awaited = Work(), Work()
    callers = {
        key: asyncio.ensure_future(joins.join(key, None, work)) for key, work in (("a", left), ("b", awaited))
    }
    await turns()
    callers["a"].cancel()
    await turns()
    assert [joins.is_abandoned(key) for key in ("a", "b", "never")] == [True, False, False]
    for key in ("a", "b", "never"):
        joins.end_abandoned(key)
    assert not joins.is_abandoned("a")
    awaited.go.set()
    async with bounded():
        assert await callers["b"] == 1


async def test_callers_of_work_that_the_keeper_ended_are_told_to_try_again() -> None:
    keeper = TaskKeeper()
    joins: Joins[int] = Joins(keeper, "run sandbox")
    caller = asyncio.ensure_future(joins.join("a", None, Work()))
    await turns()
    async with bounded():
        await keeper.close(0.0)
        with pytest.raises(Unavailable, match="run sandbox a was ended"):
            await caller


async def test_the_keeper_waits_for_tasks_then_cancels_them_and_services_last() -> None:
    keeper = TaskKeeper()
    ended: list[str] = []
    told = asyncio.Event()

    async def service() -> None:
        try:
            told.set()
            await asyncio.Event().wait()
        finally:
            ended.append("service")

    async def task() -> None:
        await told.wait()
        ended.append("task")

    keeper.start("task", task())
    keeper.serve("service", service())
    async with bounded():
        await keeper.close(10.0)
    assert ended == ["task", "service"]
    assert not keeper._services


async def test_a_task_that_does_not_end_by_itself_is_cancelled_after_the_grace() -> None:
    keeper = TaskKeeper()
    task = keeper.start("for ever", asyncio.Event().wait())
    await turns()
    async with bounded():
        await keeper.close(0.01)
    assert task.cancelled()


async def test_a_service_that_fails_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    keeper = TaskKeeper()

    async def fails() -> None:
        raise RuntimeError("watch broke")

    keeper.serve("exits of crun", fails())
    await turns()
    assert "exits of crun ended: watch broke" in caplog.text


async def test_a_task_that_fails_unheard_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keeper = TaskKeeper()

    async def fails() -> None:
        raise Broken("no")

    keeper.start("stop container abc", fails())
    await turns()
    assert "stop container abc failed: no" in caplog.text


async def test_a_lock_is_one_for_each_key_and_gone_when_nobody_holds_it() -> None:
    locks = Locks()
    order: list[str] = []
    inside, go = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with locks.of("a"):
            inside.set()
            await go.wait()
            order.append("first")

    async def second() -> None:
        async with locks.of("a"):
            order.append("second")

    async with bounded():
        one = asyncio.ensure_future(first())
        await inside.wait()
        two = asyncio.ensure_future(second())
        async with locks.of("b"):
            gc.collect()
            assert set(locks._locks) == {"a", "b"}
        go.set()
        await asyncio.gather(one, two)
    assert order == ["first", "second"]
    gc.collect()
    assert len(locks._locks) == 0


async def test_a_create_that_was_given_up_before_it_had_a_record_is_ended_by_the_next_attempt(
    world: World,
) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("pod_alive")
    first = asyncio.ensure_future(world.node.containers.create(pod, container_config("app")))
    async with bounded():
        await hold.reached.wait()
        first.cancel()
        await turns()
        second = await world.node.containers.create(pod, container_config("app", attempt=1))
    hold.release.set()
    await turns()
    assert set(world.records.containers) == {second}
    assert world.node.abandon.under_way() == []
