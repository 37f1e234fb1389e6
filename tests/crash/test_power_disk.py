"""The disk whose power can be cut keeps what was synced, and may lose, tear or reorder everything else."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from crib.host.files import sync_directory
from tests.crash.fuse_disk import Op
from tests.crash.power import SECTOR, after_cut, plugged_in

pytestmark = [pytest.mark.root, pytest.mark.system]
SEEDS = range(40)
OLD, NEW = b"o" * 4 * SECTOR, b"n" * 4 * SECTOR


@pytest.fixture
def logged(tmp_path: Path) -> Callable[[Callable[[Path], None]], list[Op]]:
    """What a piece of work on a disk leaves in its log."""

    def log(work: Callable[[Path], None]) -> list[Op]:
        (place := tmp_path / "disk").mkdir()
        with plugged_in(place, tmp_path / "log") as disk:
            work(place)
            return [op for _, op in disk.read_log()]

    return log


def after_cuts(log: list[Op], tmp_path: Path) -> list[Path]:
    """What is left by many seeds."""
    places = [tmp_path / f"cut{seed}" for seed in SEEDS]
    for seed, place in zip(SEEDS, places, strict=True):
        place.mkdir()
        after_cut(log, seed, place)
    return places


def test_what_was_synced_is_kept_and_what_was_written_later_is_kept_lost_or_torn(
    logged: Callable[[Callable[[Path], None]], list[Op]], tmp_path: Path
) -> None:
    def work(place: Path) -> None:
        with (place / "file").open("wb", buffering=0) as file:
            file.write(OLD)
            os.fsync(file.fileno())
            sync_directory(str(place))
            file.seek(0)
            file.write(NEW)

    found = {(place / "file").read_bytes() for place in after_cuts(logged(work), tmp_path)}
    assert {OLD, NEW} < found
    for content in found:
        assert len(content) == len(OLD)
        assert all(len(set(content[at : at + SECTOR])) == 1 for at in range(0, len(content), SECTOR))


def test_a_name_is_sure_once_its_directory_was_synced(
    logged: Callable[[Callable[[Path], None]], list[Op]], tmp_path: Path
) -> None:
    def work(place: Path) -> None:
        for name in ("sure", "unsure"):
            (place / f"{name}.new").write_bytes(OLD)
            os.rename(place / f"{name}.new", place / name)
            if name == "sure":
                sync_directory(str(place))

    names = [{path.name for path in place.iterdir()} for place in after_cuts(logged(work), tmp_path)]
    assert all("sure" in found for found in names)
    assert {"unsure"} <= set.union(*names)
    assert any("unsure" not in found for found in names)
    assert any((tmp_path / f"cut{seed}" / "sure").read_bytes() != OLD for seed in SEEDS), "it was not synced"


@pytest.mark.parametrize(("synchronous", "sure"), [("FULL", True), ("NORMAL", False)])
def test_sqlite_keeps_what_it_promises_on_it(
    logged: Callable[[Callable[[Path], None]], list[Op]], tmp_path: Path, synchronous: str, sure: bool
) -> None:
    """Also with its index mapped into memory; and never is a database damaged."""

    def work(place: Path) -> None:
        connection = sqlite3.connect(place / "db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("CREATE TABLE t (a)")
        sync_directory(str(place))
        for number in range(20):
            connection.execute("INSERT INTO t VALUES (?)", (number,))
        left_open.append(connection)  # closing it would sync

    left_open: list[sqlite3.Connection] = []
    log = logged(work)
    counts = set()
    for place in after_cuts(log, tmp_path):
        with contextlib.closing(sqlite3.connect(place / "db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            counts.add(connection.execute("SELECT count(*) FROM t").fetchone()[0] if tables else 0)
    assert (counts == {20}) == sure, counts
    left_open.clear()
