"""SQLite records: what is damaged is mended, what fails is told, and nobody waits for the disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.backends.records import boot_file as boot_module
from crib.backends.records import database as database_module
from crib.backends.records import follower as follower_module
from crib.backends.records import image_file as image_module
from crib.backends.records import salvage as salvage_module
from crib.backends.records import sqlite_files
from crib.backends.records.boot_file import Change
from crib.backends.records.database import POD_SCHEMA, Database, LockNotes
from crib.backends.records.migrations import SCHEMA_VERSION, SchemaTooNew
from crib.backends.records.rows import MAX_DOCUMENT, SqliteRecords
from crib.backends.records.salvage import check_databases
from crib.backends.records.sqlite_files import CACHE_KIB, LOG_BYTES, open_file, set_aside
from crib.model.container import ContainerState
from crib.model.errors import Broken, Exhausted, Unavailable
from crib.model.ids import SandboxId
from crib.model.image import ImageDocuments
from crib.model.paths import Paths
from crib.model.sandbox import PodMetadata, SandboxConfig, SandboxRecord, SandboxState
from tests.contract.records_samples import full_container, full_documents, full_image, full_sandbox

BOUND = 60.0


@pytest.fixture
def paths() -> Iterator[Paths]:
    """In memory where that can be: what is tried here is written some hundred times, and synced."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as root:
        for name in ("data", "state"):
            Path(root, name).mkdir()
        yield Paths(f"{root}/data", f"{root}/state")


@pytest.fixture
def database(paths: Paths) -> Iterator[Database]:
    made = Database(paths)
    yield made
    made.close()


@pytest.fixture
def records(database: Database) -> SqliteRecords:
    return SqliteRecords(database)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    for module in (follower_module, image_module):
        monkeypatch.setattr(module, "RETRY", 0.01)
    monkeypatch.setattr(follower_module, "GATHER", 0.0)


def on_disk(paths: Paths, query: str = "SELECT id FROM sandboxes") -> list[str]:
    with contextlib.closing(sqlite3.connect(paths.database, timeout=BOUND)) as connection:
        return [row[0] for row in connection.execute(query)]


def forget_the_boot(paths: Paths) -> None:
    """What a reboot leaves is what is on disk."""
    shutil.rmtree(paths.state)
    Path(paths.state).mkdir()


class Watched:
    """A database whose services run, and what it told."""

    def __init__(self, database: Database) -> None:
        self.problems: list[str] = []
        self.mended: list[str] = []
        self._news = asyncio.Event()
        database.watch(self._told, self._mended)
        self.tasks = [asyncio.ensure_future(service) for _, service in database.services()]

    def _told(self, problem: str) -> None:
        self.problems.append(problem)
        self._news.set()

    def _mended(self, text: str) -> None:
        self.mended.append(text)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Something is told, or the disk changes, until it is so."""
        async with asyncio.timeout(BOUND):
            while not condition():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):  # nobody tells of rows that have been written
                        await self._news.wait()
                self._news.clear()

    @property
    def problem(self) -> str:
        return self.problems[-1] if self.problems else ""


@contextlib.asynccontextmanager
async def watched(database: Database) -> AsyncIterator[Watched]:
    made = Watched(database)
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.wait(made.tasks)


def test_an_unreadable_row_is_set_aside_with_the_reason_and_the_others_are_read(
    database: Database, records: SqliteRecords, caplog: pytest.LogCaptureFixture
) -> None:
    good = full_sandbox()
    records.put_sandbox(good)
    records.put_container(full_container())
    database.pods.connection.execute("INSERT INTO sandboxes VALUES ('torn', x'00ff')")
    database.pods.connection.execute("UPDATE containers SET record = x''")
    rows = records.load()
    assert list(rows.sandboxes) == [good]
    assert list(rows.containers) == []
    assert "row torn in sandboxes cannot be read" in caplog.text
    aside = database.pods.connection.execute(
        "SELECT noun, id, record FROM unreadable ORDER BY noun DESC"
    ).fetchall()
    assert aside[0] == ("sandboxes", "torn", b"\x00\xff")
    assert aside[1][0] == "containers"
    assert list(records.load().sandboxes) == [good]


async def test_a_row_that_is_set_aside_after_the_disk_has_it_is_moved_there_too(
    paths: Paths, database: Database, records: SqliteRecords, quick: None
) -> None:
    database.pods.connection.execute("INSERT INTO sandboxes VALUES ('torn', x'00ff')")
    async with watched(database) as seen:
        await seen.until(lambda: os.path.exists(paths.database) and on_disk(paths) == ["torn"])
        assert list(records.load().sandboxes) == []
        await seen.until(lambda: on_disk(paths) == [])
    assert on_disk(paths, "SELECT id FROM unreadable") == ["torn"]


def test_a_row_of_a_state_that_is_not_known_is_set_aside(database: Database, records: SqliteRecords) -> None:
    sandbox = full_sandbox()
    records.put_sandbox(sandbox)
    database.pods.connection.execute(
        "UPDATE sandboxes SET record = replace(record, 'not-ready', 'hibernate')"
    )
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
    database.pods.connection.execute("INSERT INTO sandboxes VALUES (?, ?)", (sandbox.id, blob))
    assert list(records.load().sandboxes) == [sandbox]


def test_text_that_cannot_be_written_is_told_and_nothing_is_written(records: SqliteRecords) -> None:
    with pytest.raises(Broken, match="cannot be written"):
        records.put_sandbox(replace(full_sandbox(), reason="\udcff"))
    assert list(records.load().sandboxes) == []


def test_a_table_that_cannot_be_read_is_told_by_name(database: Database, records: SqliteRecords) -> None:
    database.pods.connection.execute("DROP TABLE containers")
    with pytest.raises(Broken, match="read containers"):
        records.load()


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


async def test_an_image_and_its_documents_are_written_both_or_neither(
    database: Database, records: SqliteRecords
) -> None:
    old, new = full_image(), replace(full_image(), tags=())
    await records.put_image(old, full_documents())
    database.images.connection.execute(
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
    pages = database.images.connection.execute("PRAGMA page_count").fetchone()[0]
    database.images.connection.execute(f"PRAGMA max_page_count={pages + 2}")
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


async def test_a_pods_row_survives_a_kill_at_once_and_is_on_disk_a_moment_later(paths: Paths) -> None:
    database = Database(paths)
    sandbox = full_sandbox()
    SqliteRecords(database).put_sandbox(sandbox)
    killed = Database(paths)  # nothing was closed, nothing has followed
    assert list(SqliteRecords(killed).load().sandboxes) == [sandbox]
    assert on_disk(paths) == []
    async with watched(killed) as seen:
        await seen.until(lambda: on_disk(paths) == [sandbox.id])
    killed.close()
    database.close()


@pytest.mark.parametrize(
    ("boot", "before"), [("another", "one"), ("this", "two")], ids=["another boot", "another holder"]
)
def test_rows_of_another_boot_or_of_before_another_daemon_give_way_to_those_on_disk(
    paths: Paths, boot: str, before: str
) -> None:
    database = Database(paths, "this", LockNotes(now="one"))
    kept, late = full_sandbox(), replace(full_sandbox(), id=full_container().sandbox_id)
    SqliteRecords(database).put_sandbox(kept)
    database.close()
    with contextlib.closing(sqlite3.connect(paths.boot_records)) as boot_file:
        boot_file.execute("REPLACE INTO sandboxes SELECT ?, record FROM sandboxes", (late.id,))
        boot_file.commit()
    again = Database(paths, boot, LockNotes(before, "now"))
    assert list(SqliteRecords(again).load().sandboxes) == [kept]
    again.close()


def test_a_row_that_changes_often_is_written_to_disk_as_it_is_then(paths: Paths) -> None:
    database = Database(paths)
    records = SqliteRecords(database)
    sandbox = full_sandbox()
    for state in SandboxState:
        records.put_sandbox(replace(sandbox, state=state))
    gone = full_container()
    records.put_container(gone)
    records.delete_container(gone.id)
    database.close()
    forget_the_boot(paths)
    rows = SqliteRecords(again := Database(paths)).load()
    assert [row.state for row in rows.sandboxes] == [list(SandboxState)[-1]]
    assert list(rows.containers) == []
    again.close()


def test_what_others_keep_in_the_file_follows_too_and_outlives_a_boot(paths: Paths) -> None:
    database = Database(paths)
    database.pods.connection.execute("CREATE TABLE pod_address (address BLOB PRIMARY KEY, pod TEXT)")
    insert = "REPLACE INTO pod_address VALUES (?, ?)"
    database.pods.write([Change(("pod_address", b"\1"), insert, (b"\1", "a"))])
    database.close()
    forget_the_boot(paths)
    again = Database(paths)
    assert again.pods.connection.execute("SELECT * FROM pod_address").fetchall() == [(b"\1", "a")]
    again.pods.connection.execute("DROP TABLE pod_address")
    again.close()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        on_disk(paths, "SELECT * FROM pod_address")


async def test_a_directory_that_is_lost_is_told_of_and_everything_is_on_disk_when_it_is_back(
    paths: Paths, quick: None
) -> None:
    database = Database(paths)
    records = SqliteRecords(database)
    first, second = full_sandbox(), replace(full_sandbox(), id=full_container().sandbox_id)
    async with watched(database) as seen:
        records.put_sandbox(first)
        await seen.until(lambda: on_disk(paths) == [first.id])
        Path(paths.data).rename(f"{paths.data}.away")
        records.put_sandbox(second)
        await seen.until(lambda: "cannot be written" in seen.problem)
        assert paths.database in seen.problem
        Path(paths.data).mkdir()
        await seen.until(lambda: seen.problem == "")
        assert set(on_disk(paths)) == {first.id, second.id}
    database.close()


async def test_a_disk_that_does_not_answer_holds_up_nobody_and_is_told_of(
    paths: Paths, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "LIMIT", 0.05)
    database = Database(paths)
    sandbox = full_sandbox()
    async with watched(database) as seen:
        await seen.until(lambda: on_disk(paths) == [])
        hung = sqlite3.connect(paths.database, isolation_level=None)
        hung.execute("BEGIN IMMEDIATE")  # a commit waits for this as for a disk
        SqliteRecords(database).put_sandbox(sandbox)
        await seen.until(lambda: "does not answer within" in seen.problem)
        hung.execute("ROLLBACK")
        hung.close()
        await seen.until(lambda: seen.problem == "")
        assert on_disk(paths) == [sandbox.id]
    database.close()


async def test_a_row_that_the_boots_file_does_not_take_is_told_of_and_written_later(
    paths: Paths, database: Database, quick: None
) -> None:
    records = SqliteRecords(database)
    sandbox = full_sandbox()
    async with watched(database) as seen:
        database.pods.connection.execute("ALTER TABLE sandboxes RENAME TO elsewhere")
        records.put_sandbox(sandbox)
        records.put_sandbox(replace(sandbox, state=SandboxState.READY))
        assert paths.boot_records in seen.problem
        database.pods.connection.execute("ALTER TABLE elsewhere RENAME TO sandboxes")
        await seen.until(lambda: seen.problem == "")
        (row,) = records.load().sandboxes
        assert row.state is SandboxState.READY


async def test_a_file_that_is_damaged_while_it_is_in_use_is_written_anew_and_nothing_is_lost(
    paths: Paths, quick: None
) -> None:
    database = Database(paths)
    records = SqliteRecords(database)
    rows = [
        replace(full_sandbox(), id=SandboxId(f"{number:064x}"), reason="x" * 3000) for number in range(40)
    ]
    for row in rows:
        records.put_sandbox(row)
    async with watched(database) as seen:
        await seen.until(lambda: len(on_disk(paths)) == len(rows))
        with contextlib.closing(sqlite3.connect(paths.database)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = Path(paths.database).read_bytes()
        Path(paths.database).write_bytes(content[:4096] + b"\xaa" * (len(content) - 4096))
        records.put_sandbox(replace(rows[0], state=SandboxState.NOT_READY))
        await seen.until(lambda: bool(seen.mended))
        assert "nothing is lost" in seen.mended[0]
        assert len(on_disk(paths)) == len(rows)
        assert seen.problem == ""
    database.close()
    assert len(list(Path(paths.data).glob("crib.db.broken-*"))) >= 1


async def test_the_log_stays_short_however_much_is_written(paths: Paths, quick: None) -> None:
    database = Database(paths)
    records = SqliteRecords(database)
    longest = 0
    async with watched(database) as seen:
        for number in range(60):
            for place in range(20):
                row = replace(full_sandbox(), id=SandboxId(f"{place:064x}"), reason=str(number) * 10_000)
                records.put_sandbox(row)
            want = str(number) * 10_000
            await seen.until(lambda want=want: all(want.encode() in row for row in _blobs(paths)))  # type: ignore[misc]
            longest = max(longest, *(path.stat().st_size for path in Path(paths.data).glob("*-wal")))
            longest = max(longest, *(path.stat().st_size for path in Path(paths.state).glob("*-wal")))
    database.close()
    assert longest < 32 << 20
    assert longest < LOG_BYTES + (2 << 20)


async def test_a_log_that_grew_while_somebody_read_is_short_again_afterwards(
    paths: Paths, quick: None
) -> None:
    database = Database(paths)
    follower = database._follower
    follower.catch_up()

    def write(number: int) -> None:
        row = replace(full_sandbox(), reason=str(number) * (1 << 20))
        SqliteRecords(database).put_sandbox(row)
        follower.catch_up()

    with contextlib.closing(sqlite3.connect(paths.database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sandboxes").fetchone()
        for number in range(10):
            write(number)
        grown = os.stat(f"{paths.database}-wal").st_size
    write(0)
    assert os.stat(f"{paths.database}-wal").st_size < LOG_BYTES < grown
    database.close()


async def test_a_boots_file_that_somebody_locks_holds_up_the_loop_once_and_not_for_long(
    paths: Paths, database: Database, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_module, "RETRY", 0.01)
    (milliseconds,) = database.pods.connection.execute("PRAGMA busy_timeout").fetchone()
    assert milliseconds <= 100
    rows = [replace(full_sandbox(), id=SandboxId(f"{number:064x}")) for number in range(20)]
    async with watched(database) as seen:
        with contextlib.closing(sqlite3.connect(paths.boot_records, isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            told: list[str] = []
            tell = database.pods.told

            def heard(part: str, problem: str) -> None:
                told.append(problem)
                tell(part, problem)

            database.pods.told = heard
            for row in rows:
                SqliteRecords(database).put_sandbox(row)
            assert len(told) == 1, "the others waited for the next try"
            assert "database is locked" in seen.problem
        await seen.until(lambda: seen.problem == "")
    assert list(SqliteRecords(database).load().sandboxes) == rows


async def test_rows_that_are_owed_at_the_end_are_written_before_it(paths: Paths) -> None:
    database = Database(paths, "boot", LockNotes("before", "now"))
    row = replace(full_sandbox(), id=SandboxId("a" * 64))
    with contextlib.closing(sqlite3.connect(paths.boot_records, isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        SqliteRecords(database).put_sandbox(row)
        assert "database is locked" in database.problem
        somebody.execute("ROLLBACK")
        database.close()
    assert on_disk(paths) == [row.id]
    again = Database(paths, "boot", LockNotes("now", "later"))
    assert list(SqliteRecords(again).load().sandboxes) == [row]
    again.close()


@pytest.mark.parametrize("what", ["the file alone", "its log too", "another in its place"])
async def test_a_boots_file_that_somebody_removed_is_written_anew_with_all_that_it_had(
    paths: Paths, quick: None, what: str
) -> None:
    database = Database(paths, "boot", LockNotes("before", "now"))
    kept, late, last = (replace(full_sandbox(), id=SandboxId(letter * 64)) for letter in "abc")
    records = SqliteRecords(database)
    records.put_sandbox(kept)
    async with watched(database) as seen:
        await seen.until(lambda: on_disk(paths) == [kept.id])
        os.unlink(paths.boot_records)
        if what == "its log too":
            os.unlink(f"{paths.boot_records}-wal")
            os.unlink(f"{paths.boot_records}-shm")
        elif what == "another in its place":
            Path(paths.boot_records).write_bytes(b"junk")
        records.put_sandbox(late)
        await seen.until(lambda: bool(seen.mended))
        assert "was removed or replaced, and is written again: nothing is lost" in seen.mended[0]
        records.put_sandbox(last)
        await seen.until(lambda: on_disk(paths) == [kept.id, late.id, last.id])
        assert seen.problem == ""
    database.close()
    again = Database(paths, "boot", LockNotes("now", "later"))
    assert again.mended == []
    assert list(SqliteRecords(again).load().sandboxes) == [kept, late, last]
    again.close()


async def test_a_boots_file_for_which_there_was_no_room_is_written_anew_when_there_is(
    paths: Paths, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(follower_module, "LOOK", 0.01)
    database = Database(paths, "boot", LockNotes("before", "now"))
    kept, late = (replace(full_sandbox(), id=SandboxId(letter * 64)) for letter in "ab")
    SqliteRecords(database).put_sandbox(kept)
    async with watched(database) as seen:
        await seen.until(lambda: on_disk(paths) == [kept.id])
        with monkeypatch.context() as patched:
            patched.setattr(follower_module, "copy_all", full)
            os.unlink(paths.boot_records)
            SqliteRecords(database).put_sandbox(late)
            await seen.until(lambda: "disk is full" in seen.problem)
        await seen.until(lambda: bool(seen.mended))
        await seen.until(lambda: on_disk(paths) == [kept.id, late.id])
    database.close()
    again = Database(paths, "boot", LockNotes("now", "later"))
    assert list(SqliteRecords(again).load().sandboxes) == [kept, late]
    again.close()


async def test_a_file_that_somebody_removed_is_written_anew(paths: Paths, quick: None) -> None:
    database = Database(paths)
    records = SqliteRecords(database)
    first, second = full_sandbox(), replace(full_sandbox(), id=full_container().sandbox_id)
    records.put_sandbox(first)
    database._follower.catch_up()
    for path in Path(paths.data).glob("crib.db*"):
        path.unlink()
    records.put_sandbox(second)
    database._follower.catch_up()
    assert set(on_disk(paths)) == {first.id, second.id}
    database.close()


async def test_an_images_file_that_somebody_removed_is_written_anew_with_all_that_it_had(
    paths: Paths, quick: None
) -> None:
    database = Database(paths)
    records = SqliteRecords(database)
    await records.put_image(full_image("a"), full_documents("a"))
    for path in Path(paths.data).glob("images.db*"):
        path.unlink()
    async with watched(database) as seen:
        await records.put_image(full_image("b"))
        assert "was removed while it was in use" in seen.mended[0]
        assert seen.problem == ""
    shutil.copytree(paths.data, f"{paths.state}/data")  # as a kill would leave it
    database.close()
    again = Database(Paths(f"{paths.state}/data", paths.state))
    assert {row.id for row in SqliteRecords(again).load().images} == {full_image("a").id, full_image("b").id}
    assert await SqliteRecords(again).image_documents(full_image("a").id) == full_documents("a")
    again.close()


def test_a_path_with_a_meaning_in_addresses_is_taken_as_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "odd?mode=ro#%41.db")
    with contextlib.closing(open_file(path, POD_SCHEMA)) as file:
        file.execute("INSERT INTO sandboxes VALUES ('a', x'00')")
    assert {entry.name for entry in tmp_path.iterdir()} == {"odd?mode=ro#%41.db"}
    assert check_databases(path) == []


def test_rows_on_disk_stay_when_the_boots_file_is_gone_before_it_was_read(tmp_path: Path) -> None:
    source, target = str(tmp_path / "boot.db"), str(tmp_path / "disk.db")
    with contextlib.closing(open_file(target, POD_SCHEMA)) as disk:
        disk.execute("INSERT INTO sandboxes VALUES ('a', x'00')")
    following = follower_module.Follower(
        target, source, sqlite_files.Reserve(str(tmp_path / "reserve")), POD_SCHEMA
    )
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        following.catch_up()
    following.close()
    assert not os.path.exists(source)
    with contextlib.closing(sqlite3.connect(target)) as disk:
        assert disk.execute("SELECT id FROM sandboxes").fetchall() == [("a",)]


def test_a_disk_of_which_it_is_known_that_it_hangs_does_not_hold_up_the_end(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (database_module, follower_module, image_module):
        monkeypatch.setattr(module, "LIMIT", 10 * BOUND)
    monkeypatch.setattr(database_module, "LAST_LOOK", 0.01)
    database = Database(paths)
    database.watch(lambda problem: None, lambda text: None)
    database._problems[paths.database] = "its disk does not answer"
    with database._follower._busy, database.images._lock:  # as writes that do not come back
        end = threading.Thread(target=database.close)
        end.start()
        end.join(BOUND)
        ended = not end.is_alive()
    end.join(BOUND)
    assert ended


def _blobs(paths: Paths) -> list[bytes]:
    return on_disk(paths, "SELECT record FROM sandboxes") or [b""]  # type: ignore[return-value]


async def test_an_end_is_synced_with_the_batch_that_it_is_in_and_other_rows_are_not(
    paths: Paths, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(paths)
    records = SqliteRecords(database)
    follower = database._follower
    modes: list[int] = []
    copy = follower._copy

    def noted(changed: dict[tuple[str, object], bool], *, everything: bool) -> None:
        copy(changed, everything=everything)
        assert follower._connection is not None
        modes.append(follower._connection.execute("PRAGMA synchronous").fetchone()[0])

    monkeypatch.setattr(follower, "_copy", noted)
    container = replace(full_container(), state=ContainerState.RUNNING)
    normal, full = 1, 2
    for state, mode in ((ContainerState.RUNNING, normal), (ContainerState.EXITED, full)):
        records.put_container(replace(container, state=state))
        follower.catch_up()
        assert modes[-1] == mode
    database.close()


async def test_an_image_that_cannot_be_written_is_refused_and_told_of_until_it_can(
    paths: Paths, database: Database, records: SqliteRecords, quick: None
) -> None:
    await records.put_image(full_image("a"))
    async with watched(database) as seen:
        database.images.connection.execute("ALTER TABLE images RENAME TO elsewhere")
        with pytest.raises(Broken, match=f"write image {full_image('b').id}: no such table"):
            await records.put_image(full_image("b"))
        assert paths.image_database in seen.problem
        database.images.connection.execute("ALTER TABLE elsewhere RENAME TO images")
        await seen.until(lambda: seen.problem == "")
    assert list(records.load().images) == [full_image("a")]


async def test_a_removal_of_an_image_is_written_when_it_can_be(
    database: Database, records: SqliteRecords, quick: None
) -> None:
    for letter in "ab":
        await records.put_image(full_image(letter), full_documents(letter))
    async with watched(database) as seen:
        database.images.connection.execute("ALTER TABLE images RENAME TO elsewhere")
        await records.delete_image(full_image("a").id)
        assert seen.problem
        database.images.connection.execute("ALTER TABLE elsewhere RENAME TO images")
        await seen.until(lambda: seen.problem == "")
    assert list(records.load().images) == [full_image("b")]


async def test_an_images_disk_that_does_not_answer_refuses_what_waits_for_it(
    paths: Paths, database: Database, records: SqliteRecords, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "LIMIT", 0.05)
    async with watched(database) as seen:
        with contextlib.closing(sqlite3.connect(paths.image_database, isolation_level=None)) as hung:
            hung.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="takes more than"):
                await records.put_image(full_image())
            hung.execute("ROLLBACK")
        monkeypatch.setattr(image_module, "LIMIT", 60.0)  # a disk may be slow
        await seen.until(lambda: seen.problem == "")
        await records.put_image(full_image())


def test_a_database_of_a_later_version_is_refused(paths: Paths) -> None:
    for path in (paths.database, paths.image_database):
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
        with pytest.raises(SchemaTooNew, match=f"schema {SCHEMA_VERSION + 1}"):
            Database(paths)
        Path(path).unlink()


async def test_an_image_database_without_documents_gets_their_table(paths: Paths) -> None:
    old = Database(paths)
    await SqliteRecords(old).put_image(full_image())
    old.images.connection.execute("DROP TABLE image_documents")
    old.close()
    database = Database(paths)
    records = SqliteRecords(database)
    assert await records.image_documents(full_image().id) == ImageDocuments()
    await records.put_image(full_image(), full_documents())
    assert await records.image_documents(full_image().id) == full_documents()
    database.close()


async def test_documents_of_an_image_that_is_gone_go_at_the_next_start(paths: Paths) -> None:
    earlier = Database(paths)
    for name in "ab":
        await SqliteRecords(earlier).put_image(full_image(name), full_documents(name))
    # As an earlier version does, which knows of no documents, or one that set an unreadable row aside.
    earlier.images.connection.execute("DELETE FROM images WHERE id = ?", (full_image("a").id,))
    earlier.close()
    database = Database(paths)
    kept = database.images.connection.execute("SELECT id FROM image_documents").fetchall()
    assert kept == [(full_image("b").id,)]
    database.close()


def test_a_reserve_is_kept_given_up_and_kept_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = sqlite_files.Reserve(str(tmp_path / "reserve"))
    reserve.keep()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= sqlite_files.RESERVE_BYTES
    assert reserve.give_up()
    assert not reserve.give_up()
    with monkeypatch.context() as full:
        full.setattr(sqlite_files, "RESERVE_BYTES", 1 << 60)
        with pytest.raises(OSError, match=r"no space left: \d+ MiB are free"):
            reserve.keep()
    reserve.keep()
    assert reserve.give_up()


# damaged files


async def _written(paths: Paths) -> None:
    """Some pages of everything, the last of it in the log, and nothing closed."""
    database = Database(paths)
    records = SqliteRecords(database)
    for number in range(12):
        records.put_sandbox(replace(full_sandbox(), id=f"{number:064x}", reason="r" * 2000))  # type: ignore[arg-type]
        records.put_container(replace(full_container(), id=f"{number:064x}", message="m" * 2000))  # type: ignore[arg-type]
    for letter in "abcdefgh":
        await records.put_image(full_image(letter), full_documents(letter))
    database.close()
    database = Database(paths)
    await SqliteRecords(database).put_image(full_image("z"), full_documents("z"))
    SqliteRecords(database).put_sandbox(full_sandbox())
    database._follower.catch_up()
    for path in (paths.database, paths.image_database):
        for suffix in ("", "-wal"):
            shutil.copyfile(path + suffix, f"{path}{suffix}.copy")
    database.close()


def _restored(paths: Paths, path: str, page: int) -> None:
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}.copy", path + suffix)
    with open(path, "r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xaa" * 4096)
    forget_the_boot(paths)


async def test_junk_in_any_page_of_the_pods_file_costs_the_rows_of_that_page_only(paths: Paths) -> None:
    await _written(paths)
    pages = Path(f"{paths.database}.copy").stat().st_size // 4096
    assert pages > 10
    for page in range(pages):
        _restored(paths, paths.database, page)
        database = Database(paths)
        rows = SqliteRecords(database).load()
        assert len(rows.sandboxes) >= 13 - 8, page  # rows that one page has at most
        assert len(rows.containers) >= 12 - 8, page
        assert all("was damaged" in text for text in database.mended)
        database.close()
        for aside in Path(paths.data).glob("*.broken-*"):
            aside.unlink()


async def test_junk_in_any_page_of_the_images_file_costs_the_rows_of_that_page_only(paths: Paths) -> None:
    await _written(paths)
    pages = Path(f"{paths.image_database}.copy").stat().st_size // 4096
    assert pages >= 5
    told = 0
    for page in range(pages):
        _restored(paths, paths.image_database, page)
        database = Database(paths)
        records = SqliteRecords(database)
        rows = records.load()
        assert len(rows.images) >= 5, page
        for image in rows.images:
            assert await records.image_documents(image.id) in (
                ImageDocuments(),
                *(full_documents(letter) for letter in "abcdefghz"),
            )
        await records.put_image(full_image("n"))
        asides = list(Path(paths.data).glob("*.broken-*[0-9]"))
        assert bool(asides) == bool(database.mended) == bool(rows.lost_images)
        told += bool(asides)
        database.close()
        # Until the damaged file is removed the next start knows that something is missing.
        again = Database(paths)
        assert bool(SqliteRecords(again).load().lost_images) == bool(asides)
        again.close()
        for aside in Path(paths.data).glob("*.broken-*"):
            aside.unlink()
        last = Database(paths)
        assert not SqliteRecords(last).load().lost_images
        last.close()
    assert told >= 3  # a page that the log has anew does no harm, and documents have no check of their own


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("size", [0, 2, 64, 4097])
async def test_a_size_of_pages_that_cannot_be_costs_no_row(paths: Paths, suffix: str, size: int) -> None:
    await _written(paths)
    _restored(paths, paths.database, 0)
    at, told = (8, size.to_bytes(4, "big")) if suffix else (16, size.to_bytes(2, "big"))
    if not suffix:
        shutil.copyfile(f"{paths.database}.copy", paths.database)
        Path(f"{paths.database}-wal").unlink()  # it has the first page once more
    file = Path(paths.database + suffix)
    content = file.read_bytes()
    file.write_bytes(content[:at] + told + content[at + len(told) :])
    database = Database(paths)
    assert len(SqliteRecords(database).load().sandboxes) >= 12
    assert "was damaged" in database.mended[0]
    database.close()


async def test_a_damaged_file_of_the_boot_is_made_anew_with_what_is_on_disk(paths: Paths) -> None:
    await _written(paths)
    content = Path(paths.boot_records).read_bytes()
    Path(paths.boot_records).write_bytes(b"\xaa" * 4096 + content[4096:])
    database = Database(paths)
    assert len(SqliteRecords(database).load().sandboxes) == 13
    assert f"{paths.boot_records} was damaged" in database.mended[0]
    database.close()


async def test_an_image_row_that_cannot_be_read_leaves_its_layers_in_doubt_until_it_comes_again(
    database: Database, records: SqliteRecords
) -> None:
    await records.put_image(full_image())
    database.images.connection.execute("UPDATE images SET record = x'00'")
    rows = records.load()
    assert list(rows.images) == []
    assert len(rows.lost_images) == 1
    await records.put_image(full_image())
    assert records.load().lost_images == ()


async def test_an_images_file_that_is_damaged_while_it_is_in_use_is_mended_in_place(
    paths: Paths, quick: None
) -> None:
    database = Database(paths)
    records = SqliteRecords(database)
    for letter in "abcdefgh":
        await records.put_image(full_image(letter), full_documents(letter))
    database.images.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = Path(paths.image_database).read_bytes()
    Path(paths.image_database).write_bytes(content[:4096] + b"\xaa" * 4096 + content[8192:])
    database.images.connection.execute("PRAGMA shrink_memory")  # or it would not be read again
    async with watched(database) as seen:
        await records.put_image(full_image("z"))
        assert "was damaged" in seen.mended[0]
    assert full_image("z") in records.load().images
    database.close()


async def test_damaged_documents_are_noticed_when_they_are_read_and_the_file_is_mended(
    paths: Paths, quick: None
) -> None:
    database = Database(paths)
    records = SqliteRecords(database)
    for letter in "abcdefgh":
        await records.put_image(full_image(letter), full_documents(letter))
    database.images.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = Path(paths.image_database).read_bytes()
    Path(paths.image_database).write_bytes(content[:4096] + b"\xaa" * (len(content) - 4096))
    database.images.connection.execute("PRAGMA shrink_memory")
    async with watched(database) as seen:
        assert await records.image_documents(full_image("a").id) == ImageDocuments()
        assert "was damaged" in seen.mended[0]
        assert seen.problem == ""
    database.close()


async def test_a_salvage_for_which_there_is_no_room_changes_nothing_and_one_that_was_cut_off_is_finished(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _written(paths)
    _restored(paths, paths.image_database, 0)

    def full(connection: sqlite3.Connection, damaged: str) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as at_once:
        at_once.setattr(salvage_module, "_fill", full)
        with pytest.raises(Broken, match="disk is full"):
            Database(paths)
    assert Path(paths.image_database).read_bytes().startswith(b"\xaa")
    with monkeypatch.context() as cut:
        cut.setattr(salvage_module, "set_aside", _cut)
        with pytest.raises(KeyboardInterrupt):
            Database(paths)
    assert not Path(paths.image_database).exists()
    database = Database(paths)
    rows = SqliteRecords(database).load()
    assert len(rows.images) >= 5
    assert rows.lost_images
    database.close()


def _cut(path: str, aside: str) -> None:
    set_aside(path, aside)
    raise KeyboardInterrupt


async def test_many_rows_that_are_owed_are_tried_by_one_timer(
    paths: Paths, database: Database, quick: None
) -> None:
    database.pods.connection.execute("ALTER TABLE sandboxes RENAME TO elsewhere")
    tries = 0
    pay = database.pods._pay

    def counted() -> None:
        nonlocal tries
        tries += 1
        pay()

    database.pods._pay = counted  # type: ignore[method-assign]
    async with watched(database) as seen:
        for number in range(50):
            row = replace(full_sandbox(), id=SandboxId(f"{number:064x}"))
            SqliteRecords(database).put_sandbox(row)
        database.pods.connection.execute("ALTER TABLE elsewhere RENAME TO sandboxes")
        await seen.until(lambda: seen.problem == "")
    assert tries == 1 + 1
    assert len(SqliteRecords(database).load().sandboxes) == 50


def test_a_state_that_takes_no_records_is_an_error_of_ours_and_names_both_roots(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(database_module, "open_boot_file", full)
    with pytest.raises(Broken, match=f"records in {paths.state} and {paths.data} cannot be opened: .* full"):
        Database(paths)


def test_a_copy_whose_reading_cannot_be_ended_is_made_anew_at_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(sqlite3.Connection):
        left = 1

        def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
            if statement == "ROLLBACK" and Faulty.left:
                Faulty.left -= 1
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(statement, *values)  # type: ignore[arg-type]

    monkeypatch.setattr(
        follower_module,
        "connect",
        lambda path: sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Faulty),
    )
    source, target = str(tmp_path / "boot.db"), str(tmp_path / "disk.db")
    open_file(source, POD_SCHEMA).close()
    following = follower_module.Follower(
        target, source, sqlite_files.Reserve(str(tmp_path / "reserve")), POD_SCHEMA
    )
    try:
        for _ in range(2):
            with contextlib.suppress(sqlite3.Error):
                following.catch_up()
        assert following.catch_up() == ""
        assert Faulty.left == 0
    finally:
        following.close()


def test_a_connection_keeps_few_pages_in_memory(tmp_path: Path) -> None:
    """SQLite's own 2 MiB, for each of four files, would be 8 MiB with a hundred pods."""
    with contextlib.closing(open_file(str(tmp_path / "rows.db"))) as connection:
        (pages,) = connection.execute("PRAGMA cache_size").fetchone()
    assert pages == -CACHE_KIB  # negative: KiB
