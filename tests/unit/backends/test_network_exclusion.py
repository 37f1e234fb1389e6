"""Who may run beside whom: those that share, and those that must be alone."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from crib.backends.network.cni import gc
from crib.backends.network.cni.gc import Exclusion
from crib.model.errors import Unavailable
from tests.fakes.world import bounded, turns

BOUND = 60.0


class Worker:
    """Does its work when it may, until it is told to end."""

    def __init__(self, exclusion: Exclusion, *, alone: bool) -> None:
        self._place = partial(exclusion.alone, BOUND) if alone else exclusion.shared
        self._end = asyncio.Event()
        self.at_work = False
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async with self._place():
            self.at_work = True
            await self._end.wait()
        self.at_work = False

    async def end(self) -> None:
        self._end.set()
        await self.task
        await turns()


async def at_work(*workers: Worker) -> list[bool]:
    await turns()
    return [worker.at_work for worker in workers]


async def test_those_that_share_run_together_and_who_is_alone_runs_after_them() -> None:
    exclusion = Exclusion()
    async with bounded():
        one, two = Worker(exclusion, alone=False), Worker(exclusion, alone=False)
        lone = Worker(exclusion, alone=True)
        assert await at_work(one, two, lone) == [True, True, False]
        await one.end()
        assert await at_work(two, lone) == [True, False]
        await two.end()
        assert await at_work(lone) == [True]
        await lone.end()


async def test_first_come_first_served() -> None:
    exclusion = Exclusion()
    async with bounded():
        early, lone, late = (Worker(exclusion, alone=alone) for alone in (False, True, False))
        other = Worker(exclusion, alone=True)
        assert await at_work(early, lone, late, other) == [True, False, False, False]
        await early.end()
        assert await at_work(lone, late, other) == [True, False, False]
        await lone.end()
        assert await at_work(late, other) == [True, False]
        await late.end()
        assert await at_work(other) == [True]
        await other.end()


async def test_who_gives_up_waiting_to_be_alone_holds_nobody_up() -> None:
    exclusion = Exclusion()
    async with bounded():
        early, lone, late = (Worker(exclusion, alone=alone) for alone in (False, True, False))
        assert await at_work(early, lone, late) == [True, False, False]
        lone.task.cancel()
        assert await at_work(early, late) == [True, True]
        await early.end()
        await late.end()


async def test_work_that_fails_lets_the_others_in() -> None:
    exclusion = Exclusion()
    async with bounded():
        lone, late = Worker(exclusion, alone=True), Worker(exclusion, alone=False)
        assert await at_work(lone, late) == [True, False]
        lone.task.cancel()
        assert await at_work(late) == [True]
        await late.end()


@pytest.mark.parametrize("first", ["the lone one", "the other"])
async def test_who_is_alone_is_broken_off_when_another_has_waited_for_some_time(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "PATIENCE_SECONDS", 0.05)
    exclusion = Exclusion()
    async with bounded():
        early = Worker(exclusion, alone=False)
        lone = Worker(exclusion, alone=True)
        late = Worker(exclusion, alone=False) if first == "the other" else None
        await early.end()
        assert await at_work(lone) == [True]
        late = late or Worker(exclusion, alone=False)
        with pytest.raises(Unavailable, match=r"have waited for it for 0\.05 s: try again later"):
            await lone.task
        assert await at_work(late) == [True]
        await late.end()


async def test_who_is_alone_and_has_ended_in_time_is_not_broken_off() -> None:
    exclusion = Exclusion()
    async with bounded():
        lone, late = Worker(exclusion, alone=True), Worker(exclusion, alone=False)
        assert await at_work(lone, late) == [True, False]
        await lone.end()
        assert await at_work(late) == [True]
        await late.end()


@pytest.mark.parametrize("when", ["before", "at that moment"])
async def test_a_turn_of_somebody_who_gives_up_is_passed_on(when: str) -> None:
    exclusion = Exclusion()
    async with bounded():
        async with exclusion.shared():
            lone, late = Worker(exclusion, alone=True), Worker(exclusion, alone=True)
            assert await at_work(lone, late) == [False, False]
            if when == "before":
                lone.task.cancel()
        lone.task.cancel()
        assert await at_work(lone, late) == [False, True]
        await late.end()


async def test_who_cannot_be_alone_soon_gives_up_and_the_others_go_on() -> None:
    exclusion = Exclusion()
    async with bounded():
        early = Worker(exclusion, alone=False)
        assert await at_work(early) == [True]
        with pytest.raises(Unavailable, match=r"at work for 0\.05 s: try again later"):
            async with exclusion.alone(0.05):
                raise AssertionError("it is not alone")
        late = Worker(exclusion, alone=False)
        assert await at_work(late) == [True]
        await early.end()
        await late.end()
