"""Records of an earlier crib are brought to the schema of this one, and kept as they were."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from crib.backends.records import follower, image_file, migrations, sqlite_files
from crib.backends.records.database import Database
from crib.backends.records.migrations import SchemaTooNew
from crib.backends.records.rows import SqliteRecords
from crib.backends.records.sqlite_files import open_file
from crib.model.paths import Paths
from tests.contract.records_samples import full_container, full_image, full_sandbox

ROWS = "CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Be a crib whose schema is that many steps later than 1."""

    def become(*steps: Callable[[sqlite3.Connection], object]) -> None:
        version = 1 + len(steps)
        monkeypatch.setattr(migrations, "SCHEMA_VERSION", version)
        monkeypatch.setattr(migrations, "STEPS", dict(enumerate(steps, 1)))
        for module in (sqlite_files, follower, image_file):
            monkeypatch.setattr(module, "PROBE", f"PRAGMA user_version={version}")

    return become


@pytest.fixture
def file(tmp_path: Path) -> str:
    """One of schema 1, with a row that is in its log only."""
    path = str(tmp_path / "rows.db")
    with contextlib.closing(open_file(path, ROWS)) as connection:
        connection.execute("INSERT INTO rows VALUES ('a', 'one')")
    return path


def content(path: str) -> tuple[int, list[tuple[str, str]]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return version, connection.execute("SELECT * FROM rows").fetchall()


def write(value: str) -> Callable[[sqlite3.Connection], object]:
    return lambda connection: connection.execute("UPDATE rows SET value = value || ?", (value,))


def test_every_step_is_taken_in_its_order_and_the_file_is_kept_as_it_was(
    file: str, later: Callable[..., None]
) -> None:
    later(write(" two"), write(" three"))
    open_file(file, ROWS).close()
    assert content(file) == (3, [("a", "one two three")])
    kept = f"{file}.schema-1"
    assert content(kept) == (1, [("a", "one")])
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600
    assert not os.path.exists(f"{kept}.new")


def test_the_copy_is_there_before_the_first_step(file: str, later: Callable[..., None]) -> None:
    def look(_: sqlite3.Connection) -> None:
        assert content(f"{file}.schema-1") == (1, [("a", "one")])

    later(look)
    open_file(file, ROWS).close()
    assert content(file)[0] == 2


def test_a_file_of_this_schema_is_not_copied(file: str) -> None:
    open_file(file, ROWS).close()
    assert not os.path.exists(f"{file}.schema-1")


def test_a_step_that_fails_leaves_the_file_as_it_was_for_the_next_try(
    file: str, later: Callable[..., None]
) -> None:
    def fail(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("played by a test")

    later(write(" two"), fail)
    with pytest.raises(sqlite3.OperationalError, match="played"):
        open_file(file, ROWS)
    assert content(file) == (1, [("a", "one")])
    later(write(" two"), write(" three"))
    open_file(file, ROWS).close()
    assert content(file) == (3, [("a", "one two three")])


def test_a_later_schema_is_refused_and_the_way_back_told(
    file: str, later: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    later(write(" two"))
    open_file(file, ROWS).close()
    monkeypatch.undo()
    with pytest.raises(SchemaTooNew) as caught:
        open_file(file, ROWS)
    assert str(caught.value) == (
        f"{file} has schema 2, of a later crib, and this one knows up to 1: install that one, "
        f"or put back {file}.schema-1, which is from before it"
    )
    assert content(file) == (2, [("a", "one two")])
    os.unlink(f"{file}.schema-1")
    with pytest.raises(SchemaTooNew, match=r"install that one$"):
        open_file(file, ROWS)


async def test_all_files_of_a_node_with_pods_are_brought_up_and_their_rows_are_there(
    tmp_path: Path, later: Callable[..., None]
) -> None:
    paths = Paths(str(tmp_path / "data"), str(tmp_path / "state"))
    for directory in (paths.data, paths.state):
        os.mkdir(directory)
    sandbox, container, image = full_sandbox(), full_container(), full_image()
    earlier = Database(paths, "boot")
    await SqliteRecords(earlier).put_image(image)
    SqliteRecords(earlier).put_sandbox(sandbox)
    SqliteRecords(earlier).put_container(container)
    earlier.close()

    later(lambda connection: connection.execute("CREATE TABLE added (word TEXT)"))
    database = Database(paths, "boot")
    rows = SqliteRecords(database).load()
    database.close()
    assert (*rows.sandboxes, *rows.containers, *rows.images) == (sandbox, container, image)
    for path in database.files:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (2,), path
        assert os.path.exists(f"{path}.schema-1")
