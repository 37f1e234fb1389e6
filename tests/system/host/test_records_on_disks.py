"""Records on real file systems that are full, read-only or both damaged and read-only, without a daemon."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.network.cni.kept_results import KeptResults
from crib.backends.records.database import Database
from crib.backends.records.migrations import keep_copy
from crib.backends.records.rows import SqliteRecords
from crib.backends.records.sqlite_files import RESERVE_BYTES, open_file
from crib.model.errors import Broken, Exhausted
from crib.model.ids import SandboxId, new_sandbox_id
from crib.model.image import ImageDocuments
from crib.model.paths import Paths
from crib.model.sandbox import SandboxRecord, SandboxState
from tests.contract.records_samples import full_container, full_documents, full_image, full_sandbox

pytestmark = pytest.mark.root

DISK_BYTES = 24 << 20


@pytest.fixture
def paths(private_root: Path) -> Iterator[Paths]:
    data, state = private_root / "d", private_root / "s"
    data.mkdir()
    state.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "crib-test", str(data))
    try:
        yield Paths(str(data), str(state))
    finally:
        _run("umount", str(data))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def read_only(paths: Paths, *, on: bool = True) -> None:
    _run("mount", "-o", f"remount,{'ro' if on else 'rw'}", paths.data)


def fill(paths: Paths) -> None:
    with open(f"{paths.data}/filler", "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


async def some(paths: Paths) -> SandboxRecord:
    """A daemon's records, left on disk."""
    database = Database(paths)
    sandbox = await some_in(database)
    database.close()
    return sandbox


async def some_in(database: Database) -> SandboxRecord:
    records = SqliteRecords(database)
    sandbox = full_sandbox()
    records.put_sandbox(sandbox)
    records.put_container(full_container())
    await records.put_image(full_image(), full_documents())
    database._follower.catch_up()
    return sandbox


def forget_the_boot(paths: Paths) -> None:
    shutil.rmtree(paths.state)
    os.mkdir(paths.state)


def damage(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"\xaa" * 4096)


@pytest.mark.parametrize("reboot", [False, True], ids=["same boot", "after a reboot"])
@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "damaged"])
async def test_a_start_on_a_read_only_disk_knows_everything_and_catches_up_when_it_can_be_written(
    paths: Paths, reboot: bool, damaged: bool
) -> None:
    sandbox = await some(paths)
    if damaged:
        for path in (paths.database, paths.image_database):
            damage(path)
    if reboot:
        forget_the_boot(paths)
    read_only(paths)
    problems: list[str] = []
    database = Database(paths)
    records = SqliteRecords(database)
    database.watch(problems.append, lambda text: None)
    rows = records.load()
    assert (list(rows.sandboxes), list(rows.images)) == ([sandbox], [full_image()])
    assert await records.image_documents(full_image().id) == full_documents()
    assert paths.image_database in problems[-1]
    with pytest.raises(OSError, match="Read-only file system"):
        database._follower.catch_up()
    with pytest.raises(Broken, match="Read-only file system"):
        await records.put_image(full_image("b"))
    await records.delete_image(full_image().id)
    records.put_sandbox(replace(sandbox, state=SandboxState.NOT_READY))
    read_only(paths, on=False)
    database._follower.catch_up()
    await records.put_image(full_image("b"))
    database.close()
    forget_the_boot(paths)
    again = Database(paths)
    rows = SqliteRecords(again).load()
    assert [row.state for row in rows.sandboxes] == [SandboxState.NOT_READY]
    assert list(rows.images) == [full_image("b")]
    again.close()


async def test_on_a_full_disk_the_reserve_takes_what_ends_and_goes_and_an_image_is_refused(
    paths: Paths,
) -> None:
    killed = Database(paths)
    sandbox = await some_in(killed)
    database = Database(paths)
    records = SqliteRecords(database)
    database._follower.catch_up()
    assert os.stat(paths.reserve).st_size == RESERVE_BYTES
    fill(paths)
    big = "x" * 200_000  # more than the log has room for
    records.put_sandbox(replace(sandbox, reason=big))
    with pytest.raises(OSError, match="no space left"):
        database._follower.catch_up()
    assert not os.path.exists(paths.reserve)
    with contextlib.closing(sqlite3.connect(paths.database)) as disk:
        (size,) = disk.execute("SELECT length(record) FROM sandboxes").fetchone()
    assert size > len(big)
    fill(paths)
    with pytest.raises(Exhausted, match="write image"):
        await records.put_image(full_image("b"), ImageDocuments(bytes(8 << 20), bytes(8 << 20)))
    await records.delete_image(full_image().id)
    os.unlink(f"{paths.data}/filler")
    database._follower.catch_up()
    assert os.path.exists(paths.reserve)
    await records.put_image(full_image("b"))
    assert list(records.load().images) == [full_image("b")]
    database.close()
    killed.close()


@pytest.mark.parametrize("reboot", [False, True], ids=["same boot", "after a reboot"])
async def test_a_start_on_a_full_disk_knows_everything(paths: Paths, reboot: bool) -> None:
    sandbox = await some(paths)
    fill(paths)
    if reboot:
        forget_the_boot(paths)
    database = Database(paths)
    rows = SqliteRecords(database).load()
    assert (list(rows.sandboxes), list(rows.images)) == ([sandbox], [full_image()])
    with pytest.raises(OSError, match="no space left"):
        database._follower.catch_up()
    database.close()


def test_a_copy_that_there_is_no_room_for_leaves_nothing_of_itself(paths: Paths) -> None:
    with contextlib.closing(open_file(paths.database, "CREATE TABLE rows (value BLOB);")) as connection:
        connection.execute("INSERT INTO rows VALUES (zeroblob(1 << 20))")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = sorted(os.listdir(paths.data))
        fill(paths)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            keep_copy(connection, f"{paths.database}.schema-1")
        os.unlink(f"{paths.data}/filler")
        assert sorted(os.listdir(paths.data)) == before


def test_a_network_result_that_cannot_be_removed_fails_no_stop(paths: Paths) -> None:
    pod: SandboxId = new_sandbox_id()
    os.mkdir(paths.network)
    for name in (f"{pod}.json", f"{pod}.json.new"):
        Path(paths.network, name).write_text("{}")
    read_only(paths)
    KeptResults(paths.network).remove(pod)
    read_only(paths, on=False)
    KeptResults(paths.network).remove(pod)
    assert os.listdir(paths.network) == []
