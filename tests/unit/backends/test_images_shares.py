"""Who may do how much at once, so that no registry stops the pulls from others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from crib.backends.images.worker.download import Pace
from crib.backends.images.worker.shares import (
    MAX_OF_REGISTRY,
    MAX_REGISTRIES,
    MAX_TRANSFERS,
    MAX_WRITERS,
    Crowded,
    Memory,
    TransferShares,
    Writers,
)


class Transfer:
    """One that begins when it may and lasts until it is told to end."""

    def __init__(self, shares: TransferShares, registry: str, pull: object) -> None:
        self.began = False
        self.end = asyncio.Event()
        self.task = asyncio.ensure_future(self._run(shares, registry, pull))

    async def _run(self, shares: TransferShares, registry: str, pull: object) -> None:
        async with shares.share(registry, pull):
            self.began = True
            await self.end.wait()


async def turns() -> None:
    """Whoever may go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def finish(transfers: list[Transfer]) -> None:
    for one in transfers:
        one.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await one.task


async def test_a_registry_that_brings_nothing_leaves_room_for_another() -> None:
    shares = TransferShares()
    slow = [Transfer(shares, "slow", number) for number in range(200)]
    other = Transfer(shares, "other", "other")
    await turns()
    assert sum(one.began for one in slow) == MAX_OF_REGISTRY
    assert other.began
    await finish([*slow, other])


async def test_many_registries_that_bring_nothing_leave_one_transfer_to_each_newcomer() -> None:
    shares = TransferShares()
    slow = [Transfer(shares, f"slow{number % 5}", number) for number in range(200)]
    await turns()
    assert sum(one.began for one in slow) == MAX_TRANSFERS
    newcomers = [Transfer(shares, f"new{number}", number) for number in range(2 * MAX_REGISTRIES)]
    await turns()
    assert sum(one.began for one in newcomers) == MAX_REGISTRIES
    await finish([*slow, *newcomers])


async def test_dozens_of_slow_registries_that_fill_all_they_can_leave_a_transfer_to_another() -> None:
    shares = TransferShares()
    slow = [Transfer(shares, f"slow{number}", number) for number in range(66) for _ in range(3)]
    other = Transfer(shares, "other", "other")
    await turns()
    assert other.began
    await finish([*slow, other])


async def test_of_one_registrys_pulls_the_one_with_nothing_under_way_is_next() -> None:
    shares = TransferShares()
    greedy = [Transfer(shares, "r", "greedy") for _ in range(MAX_OF_REGISTRY + 3)]
    late = Transfer(shares, "r", "late")
    await turns()
    assert not late.began
    greedy[0].end.set()
    await turns()
    assert late.began
    assert sum(one.began for one in greedy) == MAX_OF_REGISTRY
    await finish([*greedy, late])


async def test_who_gives_up_waiting_takes_no_share_along() -> None:
    shares = TransferShares()
    slow = [Transfer(shares, "r", number) for number in range(MAX_OF_REGISTRY + 5)]
    await turns()
    await finish(slow)
    again = [Transfer(shares, "r", number) for number in range(MAX_OF_REGISTRY)]
    await turns()
    assert all(one.began for one in again)
    await finish(again)


@pytest.fixture
def writers() -> Iterator[Writers]:
    made = Writers()
    yield made
    made.close()


async def test_a_place_that_somebody_waits_for_is_wanted_until_it_is_had(writers: Writers) -> None:
    assert all([await writers.take_free() for _ in range(MAX_WRITERS)])
    assert not await writers.take_free()
    assert not writers.wanted()
    waiting = asyncio.ensure_future(writers.take())
    await turns()
    assert writers.wanted()
    writers.give()
    await waiting
    assert not writers.wanted()


def test_a_layer_beside_others_has_its_own_part_of_the_memory_and_one_alone_nearly_all() -> None:
    memory = Memory(512 << 20)
    own = (384 << 20) // 48
    memory.change(0, memory.most)
    for _ in range(MAX_WRITERS - 1):
        memory.change(0, own)
        with pytest.raises(Crowded):
            memory.change(own, own + 1)
    assert memory.most + (MAX_WRITERS - 1) * own == 384 << 20
    memory.change(memory.most, 0)
    assert not memory.is_shared
    memory.change(own, memory.most)


async def test_who_found_no_memory_writes_again_when_the_others_have_given_theirs_back(
    writers: Writers,
) -> None:
    writers.memory = memory = Memory(1 << 20)
    tries = 0

    async def write() -> str:
        nonlocal tries
        tries += 1
        memory.change(0, memory.most)
        return "written"

    await writers.take()
    memory.change(0, memory.most)
    writing = asyncio.ensure_future(writers.write_whole(write))
    await turns()
    assert (tries, writing.done(), writers.wanted()) == (1, False, True)
    memory.change(memory.most, 0)
    writers.give()
    assert await writing == "written"
    assert (tries, writers.wanted()) == (2, False)


def test_a_worker_without_a_limit_counts_no_memory() -> None:
    memory = Memory()
    memory.change(0, 1 << 50)
    assert not memory.is_shared


def test_a_pace_is_judged_by_all_that_came_and_after_the_grace_only() -> None:
    pace = Pace(1000, 10.0)
    pace.begin(0.0)
    pace.add(100, 0.0)
    assert pace.problem(9.0) == ""
    assert "10 bytes a second for 10 s, images.min_rate is 1000" in pace.problem(10.0)
    pace.add(50_000, 0.0)
    assert pace.problem(50.0) == ""
    assert pace.problem(60.0)


def test_a_pace_counts_no_time_in_which_nothing_was_asked_for_or_taken() -> None:
    pace = Pace(1000, 10.0)
    pace.begin(0.0)
    pace.begin(0.0)
    pace.add(12_000, 0.0)
    pace.end(4.0)
    pace.end(12.0)
    pace.begin(1000.0)
    assert pace.problem(1000.0) == ""
    pace.add(0, 20.0)
    assert pace.problem(1020.0) == ""
    assert pace.problem(1030.0)


def test_no_pace_is_too_slow_without_a_minimum() -> None:
    pace = Pace(0, 0.0)
    pace.begin(0.0)
    assert pace.problem(1e9) == ""
