"""The port `Journal`: in memory, and in the files of the records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from crib.backends.records.database import Database
from crib.backends.records.journal import FORGET_AT_ONCE, SqliteJournal
from crib.model.events import EventKind, NodeEvent
from crib.model.paths import Paths
from crib.ports.journal import Journal, Label
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal

Reopen = Callable[[], Journal]
"""Gives the journal, or that which a daemon finds that starts after this one."""


@dataclass(frozen=True, slots=True)
class Note:
    words: str
    numbers: tuple[int, ...] = ()


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    clock = ManualClock(0)
    memory = MemoryJournal(clock)
    opened: list[Database] = []
    (tmp_path / "state").mkdir()

    def reopen() -> Journal:
        if request.param == "memory":
            memory.restarted()
            return memory
        if opened:
            opened.pop().close()
        opened.append(Database(Paths(str(tmp_path), str(tmp_path / "state"))))
        return SqliteJournal(opened[-1].pods, clock)

    yield reopen
    if opened:
        opened.pop().close()


def event(at: int, **more: object) -> NodeEvent:
    return replace(NodeEvent(EventKind.POD, "started", at), **more)  # type: ignore[arg-type]  # fields by name


async def written() -> None:
    await asyncio.sleep(0)


async def test_nothing_is_there_at_first(reopen: Reopen) -> None:
    journal = reopen()
    assert (list(journal.read(0, 10)), journal.span(), journal.before(5)) == ([], (0, 0), 0)
    assert list(journal.shelf("notes", Note).labels()) == []
    assert journal.shelf("notes", Note).get("a") is None


async def test_events_come_back_whole_in_order_and_numbered_also_after_a_restart(reopen: Reopen) -> None:
    journal = reopen()
    full = NodeEvent(
        EventKind.CONTAINER, "stopped", 7, "c1", "p1", "default/web", "app", "OOMKilled", exit_code=137
    )
    numbers = [journal.append(event(1)), journal.append(full), journal.append(event(3))]
    await written()
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    for is_new_daemon in (False, True):
        journal = reopen() if is_new_daemon else journal
        found = journal.read(0, 10)
        assert [one.number for one in found] == numbers
        assert found[1] == replace(full, number=numbers[1])
        assert [one.number for one in journal.read(numbers[0], 1)] == [numbers[1]]
        assert list(journal.read(numbers[2], 10)) == []
        assert journal.span() == (numbers[0], numbers[2])


async def test_numbers_go_on_after_a_restart_also_when_all_but_the_last_event_were_forgotten(
    reopen: Reopen,
) -> None:
    journal = reopen()
    numbers = [journal.append(event(at)) for at in range(3)]
    await written()
    assert journal.forget(100, 100) == 2
    await written()
    assert journal.span() == (numbers[2], numbers[2])
    assert journal.forget(100, 100) == 0
    assert reopen().append(event(5)) > numbers[2]


async def test_events_are_forgotten_by_age_and_by_number(reopen: Reopen) -> None:
    journal = reopen()
    numbers = [journal.append(event(at)) for at in (10, 20, 30, 40)]
    await written()
    assert journal.forget(20, 100) == 1
    await written()
    assert journal.span() == (numbers[1], numbers[3])
    assert journal.forget(0, 2) == 1
    await written()
    assert journal.span() == (numbers[2], numbers[3])


async def test_more_events_than_one_call_forgets_go_with_the_next_ones(reopen: Reopen) -> None:
    journal = reopen()
    for at in range(FORGET_AT_ONCE + 10):
        journal.append(event(at))
    await written()
    while journal.forget(10_000, 10_000):
        await written()
    assert journal.span()[0] == journal.span()[1] != 0


async def test_the_last_event_before_a_time_is_told(reopen: Reopen) -> None:
    journal = reopen()
    numbers = [journal.append(event(at)) for at in (10, 20, 30)]
    await written()
    assert [journal.before(at) for at in (10, 11, 30, 99)] == [0, numbers[0], numbers[1], numbers[2]]


async def test_documents_come_back_by_subject_also_after_a_restart(reopen: Reopen) -> None:
    journal = reopen()
    shelf, other = journal.shelf("notes", Note), journal.shelf("more", Note)
    shelf.put(Label("a", "default/a", 1), Note("first", (1, 2)))
    shelf.put(Label("b", "default/b", 3), Note("second"))
    shelf.put(Label("a", "default/a", 2), Note("later"))
    other.put(Label("a", "", 9), Note("another's"))
    await written()
    journal = reopen()
    shelf = journal.shelf("notes", Note)
    assert list(shelf.labels()) == [Label("b", "default/b", 3), Label("a", "default/a", 2)]
    assert (shelf.get("a"), shelf.get("b"), shelf.get("c")) == (Note("later"), Note("second"), None)
    assert journal.shelf("more", Note).get("a") == Note("another's")


async def test_dropped_documents_are_gone_and_the_rest_stays(reopen: Reopen) -> None:
    shelf = reopen().shelf("notes", Note)
    for subject in "abc":
        shelf.put(Label(subject, "", 1), Note(subject))
    await written()
    shelf.drop(["a", "c", "never there"])
    await written()
    assert [label.subject for label in shelf.labels()] == ["b"]
    assert [label.subject for label in reopen().shelf("notes", Note).labels()] == ["b"]
