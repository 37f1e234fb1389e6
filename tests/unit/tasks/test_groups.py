"""Tasks that end with a block, and parts of work that outlast one."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, cast

import pytest

import crib
from crib.tasks.groups import Beside, Group, all_of
from crib.tasks.keeper import TaskKeeper, at_stage, current_work
from tests.fakes.world import World, bounded


async def forever() -> None:
    await asyncio.Event().wait()


async def fails(text: str) -> None:
    raise ValueError(text)


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    async with bounded():
        yield


async def test_what_goes_on_beside_a_block_has_ended_when_the_block_is_left() -> None:
    async with Beside() as beside:
        task = beside.start("for ever", forever())
        assert task.get_name() == "for ever"
    assert task.cancelled()


async def test_a_failure_beside_a_block_is_the_blocks_own_to_ask_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Beside() as beside:
        task = beside.start("failing", fails("unheard"))
        await asyncio.wait([task])
    del task, beside
    assert not caplog.records


async def test_the_results_of_all_come_in_the_order_of_the_works() -> None:
    first_may_end = asyncio.Event()

    async def work(number: int) -> int:
        if number:
            first_may_end.set()
        else:
            await first_may_end.wait()
        return number

    assert await all_of("number", map(work, range(3))) == [0, 1, 2]


async def test_the_first_failure_of_all_is_raised_when_the_others_have_ended() -> None:
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await forever()
        finally:
            ended.set()

    with pytest.raises(ValueError, match="the reason"):
        await all_of("work", [long(), fails("the reason")])
    assert ended.is_set()


async def test_the_tasks_of_a_group_have_names() -> None:
    async with Group() as group:
        assert group.start("reading", asyncio.sleep(0)).get_name() == "reading"


async def test_a_part_belongs_to_the_work_that_began_it_and_outlasts_who_waits_for_it() -> None:
    keeper, may_end, at = TaskKeeper(), asyncio.Event(), list[object]()

    async def part() -> None:
        at.append(current_work())
        with at_stage("a part"):
            await may_end.wait()

    async def verb() -> asyncio.Task[None]:
        return keeper.part("closing", part(), "0123")

    work = keeper.begin("verb", verb(), "0123")
    task = await work.wait()
    await asyncio.sleep(0)
    assert at == [work]
    assert [stage.name for stage in work.stages] == ["a part"]
    assert task.get_name() == "closing 0123"
    assert keeper.works() == []
    may_end.set()
    await task


async def test_parts_end_with_their_keeper() -> None:
    keeper = TaskKeeper()
    task = keeper.part("for ever", forever())
    await keeper.close(10.0)
    assert task.cancelled()


async def test_a_part_that_fails_unheard_is_not_logged_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    keeper = TaskKeeper()
    task = keeper.part("failing", fails("unheard"))
    await asyncio.wait([task])
    del task
    await asyncio.sleep(0)
    assert not caplog.records


async def test_every_task_of_a_pods_life_has_a_name() -> None:
    """Whatever the spelling: the loop itself is asked."""
    tasks, home = list[asyncio.Task[Any]](), inspect.getfile(crib).removesuffix("__init__.py")

    def noted(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        tasks.append(asyncio.Task(work, loop=loop, **options))  # it is named afterwards
        return tasks[-1]

    loop = asyncio.get_running_loop()
    loop.set_task_factory(cast(Any, noted))  # typeshed wants a name and a context by themselves
    try:
        world = World()
        await world.start()
        pod = await world.pod()
        await world.pulled()
        container = await world.running(pod)
        assert [pods async for pods in world.node.stats.pods(list(world.node.sandboxes.list()))]
        await world.node.containers.stop(container, 0)
        await world.node.sandboxes.stop(pod)
        await world.node.sandboxes.remove(pod)
        await world.close()
    finally:
        loop.set_task_factory(None)
    ours = [
        (task, code)
        for task in tasks
        if (code := cast(Any, task.get_coro()).cr_code).co_filename.startswith(home)
    ]
    assert len(ours) > 10
    assert [str(code) for task, code in ours if task.get_name().startswith("Task-")] == []


async def test_a_stage_is_shown_with_its_age_when_that_is_unusual(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, may_end = TaskKeeper(), asyncio.Event()

    async def verb() -> None:
        with at_stage("outer"), at_stage("inner"):
            await may_end.wait()

    work = keeper.begin("verb", verb())
    await asyncio.sleep(0)
    assert work.where == "outer > inner"
    began = work.stages[-1].began
    monkeypatch.setattr(time, "monotonic", lambda: began + 31)
    assert work.where == "outer > inner (31 s)"
    monkeypatch.undo()
    may_end.set()
    await work.wait()
    assert work.where == ""
