"""Brings the pods' file on disk to what the file of this boot holds: off the loop, until it succeeds.

Nobody waits for it. A disk that is full, read-only or hung is reported, and tried again and again; rows that
change meanwhile are written once, as they are then.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from crib.backends.records.sqlite_files import (
    PROBE,
    Reserve,
    connect,
    file_at,
    is_damage,
    is_full,
    open_file,
    set_aside,
    shorten_log,
)
from crib.host.threads import RECORDS, Job, Overdue
from crib.model.errors import CribError

LIMIT = 5.0
"""Seconds after which a disk that does not answer is a fault, and the end of the daemon does not wait."""
GATHER = 0.1
"""Seconds that changes are gathered for one commit: most rows of a pod's start change again at once."""
RETRY = 0.5
"""Seconds between two tries while there is a fault."""
LOOK = 10.0
"""Seconds between two looks at a disk that nothing was written to."""

_OWN = ("origin",)
"""Tables that say something of the one file that they are in."""

Changed = tuple[str, object]
"""A row: its table, and its key."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """One table, as needed to copy its rows."""

    name: str
    sql: str
    key: str
    columns: tuple[str, ...]

    @property
    def read(self) -> str:
        return f"SELECT {', '.join(self.columns)} FROM {self.name}"  # noqa: S608  # names of our schema

    @property
    def read_one(self) -> str:
        return f"{self.read} WHERE {self.key} = ?"

    @property
    def write(self) -> str:
        marks = ", ".join("?" * len(self.columns))
        return f"REPLACE INTO {self.name} ({', '.join(self.columns)}) VALUES ({marks})"  # noqa: S608

    @property
    def delete(self) -> str:
        return f"DELETE FROM {self.name} WHERE {self.key} = ?"  # noqa: S608


def shapes(connection: sqlite3.Connection) -> dict[str, TableShape]:
    """All tables that are to be the same in both files."""
    listed = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    return {name: _shape(connection, name, sql) for name, sql in listed if name not in _OWN}


def _shape(connection: sqlite3.Connection, name: str, sql: str) -> TableShape:
    info = connection.execute(f"PRAGMA table_info({name})").fetchall()
    columns = [column[1] for column in info]
    keys = [column[1] for column in info if column[5]]
    if len(keys) == 1:
        return TableShape(name, sql, keys[0], tuple(columns))
    return TableShape(name, sql, "rowid", ("rowid", *columns))


def copy_all(source: sqlite3.Connection, target: sqlite3.Connection) -> dict[str, TableShape]:
    """Make the target's tables those of the source, and return them. The caller has begun transactions."""
    wanted, found = shapes(source), shapes(target)
    for name in found.keys() - wanted.keys():
        target.execute(f"DROP TABLE {name}")
    for name, shape in wanted.items():
        if name not in found:
            target.execute(shape.sql)
        there = dict(_by_key(target, shape))
        here = dict(_by_key(source, shape))
        target.executemany(shape.delete, [(key,) for key in there.keys() - here.keys()])
        target.executemany(shape.write, [row for key, row in here.items() if there.get(key) != row])
    return wanted


def take_all(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """`copy_all`, in one transaction of each. One that fails leaves none open in the source."""
    source.execute("BEGIN")
    try:
        target.execute("BEGIN IMMEDIATE")
        copy_all(source, target)
        target.execute("COMMIT")
    finally:
        source.execute("ROLLBACK")


def _by_key(connection: sqlite3.Connection, shape: TableShape) -> Iterator[tuple[object, tuple[object, ...]]]:
    position = shape.columns.index(shape.key)
    for row in connection.execute(shape.read):
        yield row[position], row


def copy_rows(
    source: sqlite3.Connection, target: sqlite3.Connection, rows: Iterable[tuple[TableShape, object]]
) -> None:
    """Only these rows, each named by its table and key. The caller has begun transactions here too."""
    for shape, key in rows:
        row = source.execute(shape.read_one, (key,)).fetchone()
        if row is None:
            target.execute(shape.delete, (key,))
        else:
            target.execute(shape.write, row)


class StillHung(OSError):
    """The try before this one has not come back from the kernel."""


class Follower:
    """One file, one writer. `mark` belongs to the loop; the rest runs in one thread at a time."""

    def __init__(self, path: str, source_path: str, reserve: Reserve, schema: str) -> None:
        self.path = path
        self._source_path = source_path
        self._reserve = reserve
        self._schema = schema
        self._source: sqlite3.Connection | None = None
        self._connection: sqlite3.Connection | None = None
        self._changed: dict[Changed, bool] = {}
        """Rows to be written, and whether that must outlive a power cut."""
        self._everything = True
        self._shapes: dict[str, TableShape] = {}
        self._file = (0, 0)
        """The open one, as `file_at` describes it."""
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._wake = asyncio.Event()
        self._wake.set()
        self.look_at_source: Callable[[], bool] = lambda: False
        """Called on the loop; whether the file that is followed is another one since."""
        self.told: Callable[[str, str], None] = lambda part, problem: None
        """Told what is wrong with the disk, on the loop; an empty text is that nothing is."""
        self.mended: Callable[[str], None] = lambda text: None
        """Called with what was repaired."""

    def take_over(self, connection: sqlite3.Connection) -> None:
        """The file is open already."""
        self._connection, self._file = connection, file_at(self.path)

    def mark(self, changed: Iterable[Changed], *, synced: bool = False) -> None:
        """These rows have changed. `synced`: that is to be safe from a power cut as soon as it is written."""
        with self._lock:
            for row in changed:
                self._changed[row] = self._changed.get(row, False) or synced
        self._wake.set()

    def look(self) -> None:
        """Look at the disk soon: something else has found it wanting."""
        self._wake.set()

    async def follow_forever(self) -> None:
        """For the daemon's life."""
        problem = ""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY if problem else LOOK):
                    await self._wake.wait()
                    await asyncio.sleep(RETRY if problem else GATHER)
            self._wake.clear()
            self._look_at_source()
            problem = await self._try()
            self.told(self.path, problem)

    def _look_at_source(self) -> None:
        """While nobody reads it: a file that is being written again must not be taken for a whole one."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            if self.look_at_source():
                self._drop_source()
                self._everything = True
        finally:
            self._busy.release()

    def _drop_source(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None

    async def _try(self) -> str:
        """What is wrong, or nothing."""
        try:
            report = await RECORDS.run(Job(f"writing {self.path}", limit=LIMIT), self.catch_up)
        except Overdue:
            return f"{self.path}: the disk does not answer within {LIMIT:g} s"
        except (sqlite3.Error, OSError, CribError) as error:
            return problem_with(self.path, error)
        if report:
            self.mended(report)
        return ""

    def catch_up(self) -> str:
        """Write what has changed; what had to be mended for it. sqlite3.Error, OSError.

        When there is no room the reserve is given up, and that stays an error until there is one again.
        """
        if not self._busy.acquire(blocking=False):
            raise StillHung("an earlier write hangs")
        try:
            try:
                return self._write()
            except (sqlite3.Error, OSError) as error:
                if not is_full(error) or not self._reserve.give_up():
                    self._reserve.try_writing()
                    raise
            self._write()
            self._reserve.keep()
            return ""
        finally:
            self._busy.release()

    def _write(self) -> str:
        with self._lock:
            changed, everything = self._changed, self._everything
            self._changed = {}
        try:
            report = self._write_rows(changed, everything=everything)
        except BaseException:
            with self._lock:
                for row, synced in changed.items():
                    self._changed[row] = self._changed.get(row, False) or synced
                self._everything = True
            self._drop()
            raise
        self._everything = False
        self._reserve.keep()
        return report

    def _write_rows(self, changed: dict[Changed, bool], *, everything: bool) -> str:
        report = ""
        try:
            self._copy(changed, everything=everything)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._drop()
            aside = f"{self.path}.broken-{time.time_ns()}"
            set_aside(self.path, aside)
            report = f"{self.path} was damaged ({error}): kept as {aside}, and written again, nothing is lost"
            self._copy(changed, everything=True)
        assert self._connection is not None
        shorten_log(self._connection, self.path)
        return report

    def _copy(self, changed: dict[Changed, bool], *, everything: bool) -> None:
        if self._source is None:
            self._source = connect(self._source_path)
        if self._connection is not None and file_at(self.path) != self._file:
            self._drop()
            everything = True
        if self._connection is None:
            self._connection = open_file(self.path, self._schema)
            self._file = file_at(self.path)
        source, target = self._source, self._connection
        target.execute(f"PRAGMA synchronous={'FULL' if any(changed.values()) else 'NORMAL'}")
        source.execute("BEGIN")
        try:
            target.execute("BEGIN IMMEDIATE")
            if everything or not {table for table, _ in changed} <= self._shapes.keys():
                target.execute(PROBE)  # to notice a disk that takes no writes even if nothing changed
                self._shapes = copy_all(source, target)
            else:
                copy_rows(source, target, [(self._shapes[table], key) for table, key in changed])
            target.execute("COMMIT")
        finally:
            with contextlib.suppress(sqlite3.Error):
                source.execute("ROLLBACK")
            if source.in_transaction:  # the next try would find it within a transaction, and so each after it
                self._drop_source()
            if target.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    target.execute("ROLLBACK")

    def _drop(self) -> None:
        """Start over at the next try: the file may have been replaced by then, or be on another disk."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def close(self) -> None:
        """Write what is left, if the disk answers; what it does not take this boot's file has. Blocks."""
        with contextlib.suppress(sqlite3.Error, OSError, CribError):
            self.catch_up()
        if self._busy.acquire(timeout=LIMIT):
            self._drop()
            self._drop_source()


def problem_with(path: str, error: Exception) -> str:
    """As Status and refused verbs report it."""
    what = "its disk is full" if is_full(error) else "it cannot be written"
    return f"{path}: {what}: {getattr(error, 'strerror', None) or error}"
