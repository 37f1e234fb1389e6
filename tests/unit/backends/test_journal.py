"""The journal beside the records: kept with the row that comes next, and never in the way of it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.backends.records import boot_file
from crib.backends.records.database import Database
from crib.backends.records.journal import SqliteJournal
from crib.backends.records.rows import SqliteRecords
from crib.model.events import EventKind, NodeEvent
from crib.model.paths import Paths
from tests.contract.records_samples import full_container
from tests.fakes.clock import ManualClock

_TABLES = ("events", "containers")
EVENT = NodeEvent(EventKind.POD, "started", 1)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "state").mkdir()
    return Paths(str(tmp_path), str(tmp_path / "state"))


@pytest.fixture
def database(paths: Paths) -> Iterator[Database]:
    made = Database(paths)
    yield made
    made.close()


def rows_on_file(path: str) -> tuple[int, int]:
    """Events and containers that a daemon would find that starts now."""
    with contextlib.closing(sqlite3.connect(path)) as other:
        counts = (other.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _TABLES)
        events, containers = counts
        return events, containers


async def test_an_event_and_the_row_that_follows_it_are_one_commit(paths: Paths, database: Database) -> None:
    journal, records = SqliteJournal(database.pods, ManualClock()), SqliteRecords(database)
    journal.append(EVENT)
    assert rows_on_file(paths.boot_records) == (0, 0)
    records.put_container(full_container())
    assert rows_on_file(paths.boot_records) == (1, 1)


async def test_an_event_without_a_row_is_written_when_the_loop_turns(
    paths: Paths, database: Database
) -> None:
    SqliteJournal(database.pods, ManualClock()).append(EVENT)
    await asyncio.sleep(0)
    assert rows_on_file(paths.boot_records) == (1, 0)


async def test_an_event_that_the_loop_had_no_turn_for_is_written_at_the_end(paths: Paths) -> None:
    database = Database(paths)
    SqliteJournal(database.pods, ManualClock()).append(EVENT)
    database.close()
    assert rows_on_file(paths.boot_records) == (1, 0)
    assert rows_on_file(paths.database) == (1, 0)


async def test_what_waits_for_a_locked_file_is_bounded_and_rows_of_pods_are_kept_all_the_same(
    paths: Paths, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_file, "MOST_OWED", 3)
    journal, records = SqliteJournal(database.pods, ManualClock()), SqliteRecords(database)
    with contextlib.closing(sqlite3.connect(paths.boot_records, isolation_level=None)) as somebody:
        somebody.execute("BEGIN EXCLUSIVE")
        for _ in range(5):
            journal.append(EVENT)
            await asyncio.sleep(0)
        records.put_container(full_container())
        somebody.execute("ROLLBACK")
    database.pods.settle()
    assert rows_on_file(paths.boot_records) == (3, 1)


async def test_an_event_and_a_document_of_another_crib_are_told_and_harm_nobody(database: Database) -> None:
    journal = SqliteJournal(database.pods, ManualClock())
    database.pods.connection.execute("INSERT INTO events VALUES (5, 9, x'00')")
    database.pods.connection.execute("INSERT INTO kept VALUES ('notes/a', '', 9, x'00')")
    (found,) = journal.read(0, 10)
    assert (found.number, found.at, found.action) == (5, 9, "unreadable")
    assert journal.shelf("notes", NodeEvent).get("a") is None
    assert [label.subject for label in journal.shelf("notes", NodeEvent).labels()] == ["a"]
