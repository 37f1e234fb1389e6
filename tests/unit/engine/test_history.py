"""The node's events: one for each start and each end, told once, and read from a cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest

from crib.engine import history as history_module
from crib.engine.history import BATCH, KEPT_SECONDS, Batch, Cut, EventFilter, History
from crib.model.errors import Broken, Exhausted
from crib.model.events import EVENT_ACTIONS, EventKind, NodeEvent
from crib.model.facts import Readiness
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.world import IMAGE, World, bounded, order, pod_config, turns

EVERYTHING = EventFilter()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal(ManualClock())


@pytest.fixture
def history(journal: MemoryJournal) -> History:
    return History(journal, ManualClock())


async def batches(history: History, wanted: EventFilter = EVERYTHING) -> list[Batch]:
    async with bounded():
        return [batch async for batch in history.read(wanted)]


async def events(history: History, wanted: EventFilter = EVERYTHING) -> list[NodeEvent]:
    found = [event for batch in await batches(history, wanted) for event in batch.events]
    for event in found:
        assert event.action in EVENT_ACTIONS[event.kind], "docs/observability.md has it from there"
    return found


async def told(world: World, wanted: EventFilter = EVERYTHING) -> list[tuple[str, str]]:
    return [(event.kind.value, event.action) for event in await events(world.node.history, wanted)]


def happened(history: History, number: int) -> list[int]:
    """Tell so many events; their numbers."""
    before = history._journal.span()[1]
    for _ in range(number):
        history.happened(EventKind.NODE, "notice", "test")
    return (
        list(range(before + 1, before + 1 + number))
        if before
        else [e.number for e in history._journal.read(0, number)]
    )


# what is told


async def test_a_pods_life_is_told_with_each_start_and_end_once(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    async with bounded():
        await world.node.containers.stop(container, 0)
        await world.node.sandboxes.stop(pod)
        await world.node.sandboxes.stop(pod)
        await world.node.sandboxes.remove(pod)
    found = await events(world.node.history)
    assert [(event.kind.value, event.action) for event in found] == [
        ("node", "started"),
        ("pod", "started"),
        ("image", "pulled"),
        ("container", "created"),
        ("container", "started"),
        ("container", "stopped"),
        ("pod", "stopped"),
        ("container", "deleted"),
        ("pod", "deleted"),
    ]
    stopped = found[5]
    assert (stopped.subject, stopped.pod_id, stopped.pod, stopped.name) == (
        container,
        pod,
        "default/web",
        "app",
    )
    assert (stopped.exit_code, stopped.text) == (137, "Error")
    assert found[1].text == "10.1.0.2"
    assert found[2].name == IMAGE
    assert [event.number for event in found] == list(range(found[0].number, found[0].number + len(found)))


async def test_a_pod_that_is_removed_while_it_runs_has_an_end_too(world: World) -> None:
    pod = await world.pod()
    await world.running(pod)
    async with bounded():
        await world.node.sandboxes.remove(pod)
    found = await told(world, EventFilter(pod="web"))
    assert found.count(("container", "stopped")) == found.count(("pod", "stopped")) == 1
    assert found[-1] == ("pod", "deleted")


async def test_a_start_that_fails_is_no_start(world: World) -> None:
    world.handler.failpoints.set("prepare_pod=error(no room)")
    with pytest.raises(Broken):
        await world.node.sandboxes.run(pod_config(), "")
    assert [one for one in await told(world) if one[0] == "pod"] == []


async def test_an_exit_while_no_daemon_ran_is_told_by_the_next_one_and_once(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    before = await events(world.node.history)
    world.handler.host.finish(container, 3)
    await world.restarted()
    await world.restarted()
    found = await events(world.node.history, EventFilter(after=before[-1].number))
    assert [event.action for event in found if event.kind is EventKind.CONTAINER] == ["stopped"]
    assert [event.action for event in found if event.kind is EventKind.NODE] == ["started", "started"]


async def test_pulls_that_fail_removals_and_changes_of_the_network_are_told(world: World) -> None:
    await world.pulled()
    with pytest.raises(Exception, match="nowhere"):
        await world.node.images.pull(order("nowhere.example/none:1"))
    await world.node.images.remove(IMAGE)
    await world.node.configure_network("10.9.0.0/24")
    await world.node.status()
    world.node.history.network_is(Readiness(False, "NetworkPluginNotReady", "no configuration"))
    world.node.history.network_is(Readiness(False, "NetworkPluginNotReady", "no configuration"))
    found = await events(world.node.history)
    assert [(event.kind.value, event.action) for event in found] == [
        ("node", "started"),
        ("image", "pulled"),
        ("image", "pull failed"),
        ("image", "removed"),
        ("network", "configured"),
        ("network", "not ready"),
    ]
    assert (found[2].name, found[3].name) == ("nowhere.example/none:1", IMAGE)
    assert found[5].text == "no configuration"


async def test_faults_and_their_ends_are_told(world: World) -> None:
    world.records.breaks("crib.db: its disk is full")
    world.records.heals()
    found = [event for event in await events(world.node.history) if event.subject == "records"]
    assert [(event.action, event.text) for event in found] == [
        ("fault", "crib.db: its disk is full"),
        ("notice", "crib.db: its disk is full; that has ended"),
    ]


async def test_what_is_abandoned_is_told_and_its_end_as_well(world: World) -> None:
    pod = await world.pod()
    await world.running(pod)
    async with bounded():
        world.node.abandon(pod, "the disk is gone")
        while await told(world, EventFilter(pod="web")) == [] or ("pod", "deleted") not in await told(world):
            await turns()
    found = await told(world, EventFilter(pod="web"))
    assert found.count(("container", "abandoned")) == found.count(("pod", "abandoned")) == 1
    assert found.count(("container", "stopped")) == found.count(("pod", "stopped")) == 1


# how it is read


async def test_a_reader_goes_on_after_its_cursor_and_sees_no_event_twice(history: History) -> None:
    numbers = happened(history, 2 * BATCH + 5)
    first = await batches(history)
    assert [event.number for batch in first for event in batch.events] == numbers
    assert max(len(batch.events) for batch in first) == BATCH
    assert first[-1].cursor == numbers[-1]
    assert [e.number for e in await events(history, EventFilter(after=numbers[7]))] == numbers[8:]
    assert await events(history, EventFilter(after=numbers[-1])) == []


async def test_events_are_chosen_by_kind_pod_container_and_namespace(history: History) -> None:
    pod = NodeEvent(EventKind.POD, "started", 1, "pod-1", "pod-1", "default/web")
    container = NodeEvent(EventKind.CONTAINER, "started", 1, "cont-1", "pod-1", "default/web", "app")
    other = NodeEvent(EventKind.CONTAINER, "started", 1, "cont-2", "pod-2", "kube-system/dns", "app")
    node = NodeEvent(EventKind.NODE, "started", 1, "cribd")
    everything = [pod, container, other, node]
    for event in everything:
        history.tell(event)

    async def chosen(**wanted: object) -> list[int]:
        found = await events(history, EventFilter(**wanted))  # type: ignore[arg-type]  # fields by name
        subjects = [event.subject for event in everything]
        return [subjects.index(event.subject) for event in found]

    assert await chosen() == [0, 1, 2, 3]
    assert await chosen(kinds=frozenset({EventKind.POD, EventKind.NODE})) == [0, 3]
    assert await chosen(namespace="kube-system") == [2]
    for text in ("web", "default/web", "pod-1"):
        assert await chosen(pod=text) == [0, 1]
    for text in ("cont-1", "cont"):
        assert 1 in await chosen(container=text)
    assert await chosen(container="app") == [1, 2]
    assert await chosen(container="app", pod="dns") == [2]


async def test_a_reader_begins_at_a_time(journal: MemoryJournal) -> None:
    clock = ManualClock()
    history = History(journal, clock)
    numbers = happened(history, 3)
    second = journal.read(numbers[0], 1)[0]
    assert [event.number for event in await events(history, EventFilter(since=second.at))] == numbers[1:]
    assert await events(history, EventFilter(since=clock())) == []


async def test_a_reader_whose_cursor_is_too_old_is_told_where_it_goes_on(
    history: History, journal: MemoryJournal
) -> None:
    numbers = happened(history, 5)
    journal.forget(0, 2)
    first, *_ = await batches(history, EventFilter(after=numbers[0]))
    assert first.cut == Cut(numbers[0], numbers[3], first.events[0].at)
    assert [event.number for event in first.events] == numbers[3:]
    assert (await batches(history, EventFilter(after=numbers[2])))[0].cut is None, (
        "it has seen all that are gone"
    )
    assert (await batches(history))[0].cut is None, "who has no cursor has missed nothing"


async def test_a_reader_whose_cursor_is_beyond_the_end_is_told_that_it_is_of_no_use(history: History) -> None:
    numbers = happened(history, 2)
    first, *_ = await batches(history, EventFilter(after=numbers[-1] + 1000))
    assert first.cut is not None
    assert [event.number for event in first.events] == numbers


async def test_a_follower_gets_what_comes_in_order_however_slow_it_is(history: History) -> None:
    happened(history, 1)
    seen: list[int] = []
    async with bounded(), aclosing(cast(Any, history.read(EventFilter(follow=True)))) as reading:
        while len(seen) < 3 * BATCH:
            batch = await anext(reading)
            seen += [event.number for event in batch.events]
            happened(history, BATCH)  # more than it takes
    assert seen == list(range(seen[0], seen[0] + len(seen)))


async def test_a_follower_that_was_overtaken_by_forgetting_is_told_so(
    history: History, journal: MemoryJournal
) -> None:
    numbers = happened(history, 1)
    async with bounded(), aclosing(cast(Any, history.read(EventFilter(follow=True)))) as reading:
        assert [event.number for event in (await anext(reading)).events] == numbers
        happened(history, 20)
        journal.forget(0, 5)
        batch = await anext(reading)
        assert batch.cut == Cut(numbers[0], numbers[0] + 16, batch.events[0].at)
        assert len(batch.events) == 5


async def test_followers_wake_at_once_and_end_with_the_daemon(history: History) -> None:
    reading = asyncio.ensure_future(batches(history, EventFilter(follow=True)))
    await turns()
    happened(history, 1)
    await turns()
    history.close()
    found = await reading
    assert [len(batch.events) for batch in found] == [1, 0]
    assert found[-1].cursor == found[0].events[0].number


async def test_a_reader_of_few_events_is_told_now_and_then_how_far_it_is(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "NEWS_OF_CURSOR", -1.0)
    numbers = happened(history, BATCH + 1)
    found = await batches(history, EventFilter(kinds=frozenset({EventKind.IMAGE})))
    assert [batch.cursor for batch in found] == [numbers[BATCH - 1], numbers[-1], numbers[-1]]


async def test_there_is_a_bound_to_the_number_of_readers(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "READER_LIMIT", 1)
    happened(history, 1)
    async with bounded(), aclosing(cast(Any, history.read(EventFilter(follow=True)))) as reading:
        await anext(reading)
        with pytest.raises(Exhausted, match="1 readers"):
            await batches(history)
    assert len(await events(history)) == 1


async def test_events_are_forgotten_after_an_hour(
    journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    history = History(journal, clock)
    happened(history, 3)
    clock.advance(KEPT_SECONDS)
    numbers = happened(history, 1)
    forgetting = asyncio.ensure_future(history.forget_for_ever())
    await turns()
    forgetting.cancel()
    assert journal.span() == (numbers[-1], numbers[-1])


async def test_a_warning_is_in_the_message_of_a_runtime_that_stays_ready(world: World) -> None:
    world.node.notices.warn("default/web: network slow", "under way for over 31 s")
    status = await world.node.status()
    assert status.runtime.ready
    assert status.runtime.message == "default/web: network slow: under way for over 31 s"
    world.node.notices.healed("default/web: network slow")
    assert (await world.node.status()).runtime.message == ""
