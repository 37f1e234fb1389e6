"""The loop with two lanes: steps of verbs stand back, go on, and fail as others do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from crib.engine import lanes
from crib.engine.keeper import TaskKeeper
from crib.engine.lanes import TwoLanes, verb_context
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
