"""The gate between what a plugin learns when it comes, and what it is told from then on."""

from __future__ import annotations

import asyncio

import pytest

from crib.engine.plugins import gate as gates
from crib.engine.plugins.gate import Gate
from crib.model.errors import Unavailable
from tests.fakes.world import bounded, turns


async def test_passes_do_not_keep_each_other_waiting() -> None:
    gate = Gate()
    async with bounded(), gate.making(), gate.telling(), gate.making():
        assert not gate.is_wanted


async def test_who_wants_to_be_alone_waits_for_passes_under_way_and_then_is() -> None:
    gate, order = Gate(), list[str]()

    async def alone() -> None:
        async with gate.alone():
            order.append("alone")
            await turns()
            order.append("alone no more")

    async def make() -> None:
        async with gate.making():
            order.append("made")

    async with bounded():
        async with gate.making():
            tasks = [asyncio.ensure_future(alone())]
            await turns()
            tasks.append(asyncio.ensure_future(make()))
            await turns()
            assert order == []
            assert gate.is_wanted
        await asyncio.gather(*tasks)
    assert order == ["alone", "alone no more", "made"]
    assert not gate.is_wanted


async def test_what_is_told_goes_on_while_somebody_waits_to_be_alone_and_not_while_he_is() -> None:
    """A verb that holds a lock tells; one that makes something may be waiting for that lock inside."""
    gate, over = Gate(), asyncio.Event()

    async def alone() -> None:
        async with gate.alone():
            await over.wait()

    async with bounded():
        async with gate.making():
            task = asyncio.ensure_future(alone())
            await turns()
            async with gate.telling():
                pass
        await turns()
        late = asyncio.ensure_future(gate.enter(makes=False))
        await turns()
        assert not late.done()
        over.set()
        await late
        gate.leave()
        await task


async def test_who_has_waited_comes_before_the_next_who_wants_to_be_alone() -> None:
    gate, over, order = Gate(), asyncio.Event(), list[str]()

    async def alone(name: str) -> None:
        async with gate.alone():
            order.append(name)
            await over.wait()

    async def make() -> None:
        async with gate.making():
            order.append("made")
            await turns()

    async with bounded():
        first = asyncio.ensure_future(alone("first"))
        await turns()
        making, second = asyncio.ensure_future(make()), asyncio.ensure_future(alone("second"))
        await turns()
        over.set()
        await asyncio.gather(first, making, second)
    assert order == ["first", "made", "second"]


async def test_a_pass_that_takes_too_long_to_end_refuses_who_wants_to_be_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gates, "EMPTY_LIMIT", 0.01)
    gate = Gate()
    async with bounded(), gate.making():
        with pytest.raises(Unavailable, match="did not end"):
            async with gate.alone():
                pass
        async with gate.making():  # which goes on then
            pass


async def test_a_wait_at_the_gate_is_bounded_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gates, "PASS_LIMIT", 0.01)
    gate = Gate()
    async with bounded():
        async with gate.alone():
            with pytest.raises(Unavailable, match="is not done"):
                await gate.enter(makes=True)
            cancelled = asyncio.ensure_future(gate.enter(makes=False))
            await turns()
            cancelled.cancel()
            await asyncio.wait([cancelled])
        async with gate.alone():  # nobody is inside
            pass


async def test_who_is_cancelled_in_the_moment_of_being_let_in_is_not_inside() -> None:
    gate = Gate()
    async with bounded():
        async with gate.alone():
            waiting = asyncio.ensure_future(gate.enter(makes=True))
            await turns()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        async with gate.alone():
            pass
