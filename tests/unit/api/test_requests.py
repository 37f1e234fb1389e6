"""Requests are taken a few at a time from each caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pytest

from crib.api.requests import HOLD_LIMIT, LARGE, PLACES, Requests
from crib.model.errors import InvalidRequest
from crib.tasks.calls import CallUnderWay, enter
from tests.fakes.world import bounded, turns

if TYPE_CHECKING:
    from crib.rpc.call import GrpcCall


class Callers:
    """Calls whose requests come when they are told to."""

    def __init__(self) -> None:
        self.requests = Requests()
        self.reading = 0

    def call(self, name: str, comes: asyncio.Future[object]) -> asyncio.Task[bytes]:
        callers = self

        class Call:
            def take_first(self) -> None:
                return None

            async def read(self) -> object:
                callers.reading += 1
                try:
                    return await comes
                finally:
                    callers.reading -= 1

        enter(CallUnderWay("1", "Version", name))
        return asyncio.ensure_future(self.requests.take(cast("GrpcCall", Call())))


def later_on() -> asyncio.Future[object]:
    return asyncio.get_running_loop().create_future()


async def test_a_caller_sends_a_few_requests_at_a_time_and_holds_up_no_other() -> None:
    callers, big = Callers(), later_on()
    flood = [callers.call("flood", big) for _ in range(50)]
    await turns()
    assert callers.reading == PLACES
    small = later_on()
    small.set_result(b"small")
    async with bounded():
        assert await callers.call("kubelet", small) == b"small"
    big.set_result(b"x")
    async with bounded():
        assert await asyncio.gather(*flood) == [b"x"] * 50
    assert not callers.requests._places


async def test_requests_that_do_not_come_hold_up_others_of_their_caller_for_a_moment_only(
    later: Callable[[float], None],
) -> None:
    callers, never = Callers(), later_on()
    stuck = [callers.call("one", never) for _ in range(PLACES)]
    await turns()
    other = later_on()
    other.set_result(b"here")
    waiting = callers.call("one", other)
    await turns()
    assert not waiting.done()
    later(HOLD_LIMIT + 1)
    async with bounded():
        assert await waiting == b"here"
    for call in stuck:
        call.cancel()
    await turns()
    assert callers.reading == 0


async def test_a_large_request_stands_back_for_other_work() -> None:
    callers, large, small = Callers(), later_on(), later_on()
    large.set_result(bytes(LARGE))
    small.set_result(b"small")
    calls = [callers.call("one", large), callers.call("one", small)]
    ended: list[asyncio.Task[bytes]] = []
    for call in calls:
        call.add_done_callback(ended.append)
    async with bounded():
        await asyncio.wait(calls)
    assert ended == [calls[1], calls[0]]


async def test_a_call_that_ends_without_a_request_is_refused() -> None:
    callers, end = Callers(), later_on()
    end.set_result(None)
    with pytest.raises(InvalidRequest, match="without a request"):
        await callers.call("one", end)
