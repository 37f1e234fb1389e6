"""SQLite records: what is torn is set aside, what fails is told as an error of ours."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.backends.records import database as database_module
from crib.backends.records.database import SCHEMA_VERSION, Database, SchemaTooNew
from crib.backends.records.rows import MAX_DOCUMENT, SqliteRecords
from crib.model.errors import Broken, Exhausted
from crib.model.image import ImageDocuments
from crib.model.sandbox import PodMetadata, SandboxConfig, SandboxRecord
from tests.contract.records_samples import full_container, full_documents, full_image, full_sandbox


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(str(tmp_path / "crib.db"), str(tmp_path / "images.db"))
    yield made
    made.close()


@pytest.fixture
def records(database: Database) -> SqliteRecords:
    return SqliteRecords(database)


def test_an_unreadable_row_is_set_aside_with_the_reason_and_the_others_are_read(
    database: Database, records: SqliteRecords, caplog: pytest.LogCaptureFixture
) -> None:
    good = full_sandbox()
    records.put_sandbox(good)
    records.put_container(full_container())
    database.connection.execute("INSERT INTO sandboxes VALUES ('torn', x'00ff')")
    database.connection.execute("UPDATE containers SET record = x''")
    rows = records.load()
    assert list(rows.sandboxes) == [good]
    assert list(rows.containers) == []
    assert "row torn in sandboxes cannot be read" in caplog.text
    aside = database.connection.execute(
        "SELECT noun, id, record FROM unreadable ORDER BY noun DESC"
    ).fetchall()
    assert aside[0] == ("sandboxes", "torn", b"\x00\xff")
    assert aside[1][0] == "containers"
    assert list(records.load().sandboxes) == [good]


def test_a_row_of_a_state_that_is_not_known_is_set_aside(database: Database, records: SqliteRecords) -> None:
    sandbox = full_sandbox()
    records.put_sandbox(sandbox)
    database.connection.execute("UPDATE sandboxes SET record = replace(record, 'not-ready', 'hibernate')")
    assert list(records.load().sandboxes) == []


def test_a_row_written_before_a_field_was_added_is_read_with_the_default(
    database: Database, records: SqliteRecords
) -> None:
    import msgspec

    sandbox = replace(full_sandbox(), released=False)
    document = msgspec.to_builtins(sandbox)
    del document["released"]
    document["of_a_later_version"] = 1
    blob = msgspec.msgpack.encode(document)
    database.connection.execute("INSERT INTO sandboxes VALUES (?, ?)", (sandbox.id, blob))
    assert list(records.load().sandboxes) == [sandbox]


def test_a_full_disk_is_exhausted_and_the_row_as_it_was(database: Database, records: SqliteRecords) -> None:
    sandbox = full_sandbox()
    records.put_sandbox(sandbox)
    pages = database.connection.execute("PRAGMA page_count").fetchone()[0]
    database.connection.execute(f"PRAGMA max_page_count={pages}")
    big = replace(sandbox, reason="x" * 1_000_000)
    with pytest.raises(Exhausted, match=f"write sandbox {sandbox.id}"):
        records.put_sandbox(big)
    assert list(records.load().sandboxes) == [sandbox]


async def test_other_failures_of_the_database_are_broken_and_name_the_row(database: Database) -> None:
    records = SqliteRecords(database)
    sandbox, container, image = full_sandbox(), full_container(), full_image()
    database.image_connection.execute("DROP TABLE images")
    for noun in ("sandboxes", "containers"):
        database.connection.execute(f"DROP TABLE {noun}")
    with pytest.raises(Broken, match=f"write sandbox {sandbox.id}: no such table"):
        records.put_sandbox(sandbox)
    with pytest.raises(Broken, match="delete sandbox"):
        records.delete_sandbox(sandbox.id)
    with pytest.raises(Broken, match=f"write container {container.id}"):
        records.put_container(container)
    with pytest.raises(Broken, match="delete container"):
        records.delete_container(container.id)
    with pytest.raises(Broken, match=f"write image {image.id}"):
        await records.put_image(image)
    with pytest.raises(Broken, match="delete image"):
        await records.delete_image(image.id)


def test_text_that_cannot_be_written_is_told_and_nothing_is_written(records: SqliteRecords) -> None:
    with pytest.raises(Broken, match="cannot be written"):
        records.put_sandbox(replace(full_sandbox(), reason="\udcff"))
    assert list(records.load().sandboxes) == []


def test_a_table_that_cannot_be_read_is_told_by_name(database: Database, records: SqliteRecords) -> None:
    database.connection.execute("DROP TABLE containers")
    with pytest.raises(Broken, match="read containers"):
        records.load()


def test_a_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path, images = str(tmp_path / "crib.db"), str(tmp_path / "images.db")
    database = Database(path, images)
    database.connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(SchemaTooNew, match=f"schema {SCHEMA_VERSION + 1}"):
        Database(path, images)


@pytest.mark.parametrize("name", ["crib.db", "images.db"])
def test_a_damaged_file_is_set_aside_and_the_other_is_kept(tmp_path: Path, name: str) -> None:
    paths = [str(tmp_path / "crib.db"), str(tmp_path / "images.db")]
    Database(*paths).close()
    (tmp_path / name).write_bytes(b"not a database" * 1000)
    database = Database(*paths)
    rows = SqliteRecords(database).load()
    assert (rows.sandboxes, rows.containers, rows.images) == ([], [], [])
    database.close()
    (aside,) = tmp_path.glob("*.broken-*")
    assert aside.name.startswith(name)
    assert aside.read_bytes().startswith(b"not a database")


def test_rows_are_in_the_log_when_the_call_returns_and_survive_without_a_close(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "crib.db"), str(tmp_path / "images.db"))
    sandbox = full_sandbox()
    SqliteRecords(database).put_sandbox(sandbox)
    second = Database(database.path, str(tmp_path / "images.db"))
    assert list(SqliteRecords(second).load().sandboxes) == [sandbox]
    second.close()
    database.close()


def test_pod_rows_are_not_synced_and_image_rows_are(database: Database) -> None:
    normal, full = 1, 2
    assert database.connection.execute("PRAGMA synchronous").fetchone()[0] == normal
    assert database.image_connection.execute("PRAGMA synchronous").fetchone()[0] == full
    assert database.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


async def test_pod_rows_and_image_rows_can_be_written_at_once(records: SqliteRecords) -> None:
    images = [full_image(letter) for letter in "abcdef"]
    writing = asyncio.gather(*(records.put_image(image) for image in images))
    sandboxes = [full_sandbox() for _ in range(20)]
    for sandbox in sandboxes:
        records.put_sandbox(sandbox)
    async with asyncio.timeout(60):
        await writing
    rows = records.load()
    assert (len(rows.sandboxes), len(rows.images)) == (20, 6)


async def test_the_log_is_moved_into_the_file_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "CHECKPOINT_INTERVAL", 0.0)
    database = Database(str(tmp_path / "crib.db"), str(tmp_path / "images.db"))
    moved = asyncio.Event()
    loop = asyncio.get_running_loop()
    checkpoint = database._checkpoint

    def told() -> None:
        checkpoint()
        loop.call_soon_threadsafe(moved.set)

    monkeypatch.setattr(database, "_checkpoint", told)
    sandbox = full_sandbox()
    SqliteRecords(database).put_sandbox(sandbox)
    task = asyncio.ensure_future(database.checkpoint_forever())
    async with asyncio.timeout(60):
        await moved.wait()
    task.cancel()
    await asyncio.wait([task])
    (tmp_path / "copy.db").write_bytes((tmp_path / "crib.db").read_bytes())
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("SELECT id FROM sandboxes").fetchall() == [(sandbox.id,)]
    copy.close()
    database.close()


async def test_a_checkpoint_that_fails_is_logged(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Busy:
        def execute(self, statement: str) -> None:
            raise sqlite3.OperationalError("database is locked")

    real, database._checkpointer = database._checkpointer, Busy()  # type: ignore[assignment]  # only this is asked of it
    database._checkpoint()
    database._checkpointer = real
    assert "database is locked" in caplog.text


async def test_an_image_and_its_documents_are_written_both_or_neither(
    database: Database, records: SqliteRecords
) -> None:
    old, new = full_image(), replace(full_image(), tags=())
    await records.put_image(old, full_documents())
    database.image_connection.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON image_documents BEGIN SELECT RAISE(ABORT, 'not now'); END"
    )
    with pytest.raises(Broken, match=f"write image {old.id}: not now"):
        await records.put_image(new, full_documents("b"))
    assert list(records.load().images) == [old]
    assert await records.image_documents(old.id) == full_documents()
    await records.put_image(new)
    assert list(records.load().images) == [new]


async def test_a_disk_that_is_full_of_documents_is_exhausted_and_leaves_the_old_ones(
    database: Database, records: SqliteRecords
) -> None:
    image = full_image()
    await records.put_image(image, full_documents())
    pages = database.image_connection.execute("PRAGMA page_count").fetchone()[0]
    database.image_connection.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(Exhausted, match="write image"):
        await records.put_image(replace(image, tags=()), ImageDocuments(bytes(1 << 20), b""))
    assert list(records.load().images) == [image]
    assert await records.image_documents(image.id) == full_documents()


@pytest.mark.parametrize("field", ["config", "manifest"])
async def test_a_document_that_is_too_long_is_refused_and_nothing_is_written(
    records: SqliteRecords, field: str
) -> None:
    with pytest.raises(Exhausted, match=f"document of {MAX_DOCUMENT + 1} bytes"):
        await records.put_image(full_image(), ImageDocuments(**{field: bytes(MAX_DOCUMENT + 1)}))
    assert list(records.load().images) == []


async def test_an_image_database_without_documents_gets_their_table(tmp_path: Path) -> None:
    paths = str(tmp_path / "crib.db"), str(tmp_path / "images.db")
    old = Database(*paths)
    await SqliteRecords(old).put_image(full_image())
    old.image_connection.execute("DROP TABLE image_documents")
    old.close()
    database = Database(*paths)
    records = SqliteRecords(database)
    assert await records.image_documents(full_image().id) == ImageDocuments()
    await records.put_image(full_image(), full_documents())
    assert await records.image_documents(full_image().id) == full_documents()
    database.close()


async def test_documents_of_an_image_that_is_gone_go_at_the_next_start(tmp_path: Path) -> None:
    paths = str(tmp_path / "crib.db"), str(tmp_path / "images.db")
    earlier = Database(*paths)
    for name in "ab":
        await SqliteRecords(earlier).put_image(full_image(name), full_documents(name))
    # As an earlier version does, which knows of no documents, or one that set an unreadable row aside.
    earlier.image_connection.execute("DELETE FROM images WHERE id = ?", (full_image("a").id,))
    earlier.close()
    database = Database(*paths)
    kept = database.image_connection.execute("SELECT id FROM image_documents").fetchall()
    assert kept == [(full_image("b").id,)]
    database.close()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        SandboxConfig,
        metadata=st.builds(PodMetadata, texts, texts, texts, st.integers(0, 2**32 - 1)),
        labels=st.dictionaries(texts, texts, max_size=4),
        annotations=st.dictionaries(texts, texts, max_size=4),
    )
)
def test_any_text_of_a_client_comes_back_as_it_was(config: SandboxConfig) -> None:
    import msgspec

    sandbox = replace(full_sandbox(), config=config)
    encoded = msgspec.msgpack.encode(sandbox)
    assert msgspec.msgpack.decode(encoded, type=SandboxRecord) == sandbox
