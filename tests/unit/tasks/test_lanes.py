"""The loop with two lanes: steps of verbs stand back, go on, and fail as others do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from crib.tasks import lanes
from crib.tasks.keeper import TaskKeeper
from crib.tasks.lanes import TwoLanes, verb_context
from tests.fakes.world import bounded


def on_two_lanes(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=TwoLanes) as runner:
        runner.run(work())


class Verbs:
    """Some tasks of a keeper that always have a next step; counts their steps."""

    def __init__(self, number: int) -> None:
        self.steps = 0
        keeper = TaskKeeper()
        self.tasks = [keeper.start(f"verb {each}", self._go_on()) for each in range(number)]

    async def _go_on(self) -> None:
        while True:
            self.steps += 1
            await asyncio.sleep(0)

    def end(self) -> None:
        for task in self.tasks:
            task.cancel()


def test_verbs_stand_back_while_there_is_something_to_do_for_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 3600.0)
    monkeypatch.setattr(lanes, "SLICE", 0.0)

    async def story() -> None:
        verbs = Verbs(50)
        await asyncio.sleep(0)
        before = verbs.steps
        for _ in range(100):
            await asyncio.sleep(0)  # a caller's next step
        assert verbs.steps - before <= 1
        verbs.end()

    on_two_lanes(story)


def test_verbs_go_on_by_one_step_a_round_once_they_have_been_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.0)
    monkeypatch.setattr(lanes, "SLICE", 0.0)

    async def story() -> None:
        verbs = Verbs(50)
        await asyncio.sleep(0)
        before = verbs.steps
        for _ in range(100):
            await asyncio.sleep(0)
        assert 90 <= verbs.steps - before <= 110
        verbs.end()

    on_two_lanes(story)


def test_verbs_go_on_while_nobody_calls() -> None:
    async def story() -> None:
        done = asyncio.Event()

        async def work() -> int:
            for _ in range(1000):
                await asyncio.sleep(0)
            done.set()
            return 7

        task = TaskKeeper().start("verb", work())
        async with bounded():
            await done.wait()
            assert await task == 7

    on_two_lanes(story)


def test_tasks_that_a_verb_starts_are_in_its_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 3600.0)
    monkeypatch.setattr(lanes, "SLICE", 0.0)

    async def story() -> None:
        steps = 0

        async def child() -> None:
            nonlocal steps
            while True:
                steps += 1
                await asyncio.sleep(0)

        async def verb() -> None:
            await asyncio.gather(child(), child())

        task = TaskKeeper().start("verb", verb())
        for _ in range(100):
            await asyncio.sleep(0)
        assert steps <= 3
        task.cancel()

    on_two_lanes(story)


def test_what_was_cancelled_does_not_run_and_what_raises_is_told_and_stops_nothing() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: told.append(context))
        ran: list[str] = []
        done = asyncio.Event()

        def fail() -> None:
            raise ValueError("no")

        context = verb_context()
        loop.call_soon(ran.append, "cancelled", context=context).cancel()
        loop.call_soon(fail, context=context)
        loop.call_soon(ran.append, "after", context=context)
        loop.call_soon(done.set, context=context)
        async with bounded():
            await done.wait()
        assert ran == ["after"]
        assert [str(each["exception"]) for each in told] == ["no"]

    on_two_lanes(story)


def test_a_step_that_ends_the_program_leaves_the_loop_usable() -> None:
    with asyncio.Runner(loop_factory=TwoLanes) as runner:
        loop = runner.get_loop()

        def leave() -> None:
            raise KeyboardInterrupt

        loop.call_soon(leave, context=verb_context())
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()

        async def verb() -> int:
            return 1

        async def story() -> None:
            async with bounded():
                assert await TaskKeeper().start("verb", verb()) == 1

        runner.run(story())


async def next_step() -> None:
    """Until a step of a verb that is due from now on has been taken."""
    taken = asyncio.Event()
    asyncio.get_running_loop().call_soon(taken.set, context=verb_context())
    async with bounded():
        await taken.wait()


def with_calls(
    number: int, monkeypatch: pytest.MonkeyPatch, story: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """A story that begins as so many calls have just been taken up; no patience ends."""
    monkeypatch.setattr(lanes, "PATIENCE", 3600.0)
    monkeypatch.setattr(lanes, "CROWD_SECONDS", 3600.0)

    async def whole() -> None:
        await next_step()  # from here on verbs are patient
        for _ in range(number):
            lanes.note_call()
        await story()

    on_two_lanes(whole)


def test_while_many_calls_come_no_step_is_taken_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LULL", 3600.0)
    steps: list[str] = []

    async def story() -> None:
        asyncio.get_running_loop().call_soon(steps.append, "step", context=verb_context())
        for _ in range(5):
            await asyncio.sleep(0.002)  # rounds in which nothing else happens
        assert steps == []

    with_calls(lanes.CROWD, monkeypatch, story)


def test_a_lull_without_a_call_ends_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    with_calls(lanes.CROWD, monkeypatch, next_step)


def test_few_calls_hold_up_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LULL", 3600.0)
    with_calls(lanes.CROWD - 1, monkeypatch, next_step)


def test_calls_without_an_end_cost_verbs_so_many_rests_a_second_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "LULL", 3600.0)
    monkeypatch.setattr(lanes, "RESTS", 0)
    with_calls(lanes.CROWD, monkeypatch, next_step)
