"""The images' file: what is written is on disk before the caller goes on (`synchronous=FULL`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from crib.backends.records.follower import LIMIT, RETRY, StillHung, problem_with
from crib.backends.records.salvage import salvage
from crib.backends.records.sqlite_files import (
    PROBE,
    ROWS,
    SALVAGED,
    Reserve,
    check,
    commit,
    is_damage,
    is_full,
    open_file,
    remove,
    shorten_log,
)
from crib.host.threads import RECORDS, Job, Overdue
from crib.model.errors import Unavailable

T = TypeVar("T")

# Documents are kept apart from the records, which are all held in memory; the rows are large, so there is a
# rowid. An image from before there were documents has none; an earlier crib removes an image without them.
_DOCUMENTS = "(id TEXT PRIMARY KEY, config BLOB NOT NULL, manifest BLOB NOT NULL);"
IMAGE_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS images {ROWS}
CREATE TABLE IF NOT EXISTS image_documents {_DOCUMENTS}
CREATE TABLE IF NOT EXISTS unreadable (noun TEXT, id TEXT, record BLOB, error TEXT);
"""
_FORGOTTEN = "DELETE FROM image_documents WHERE id NOT IN (SELECT id FROM images)"


Statement = tuple[str, tuple[object, ...]]
"""SQL, and what its question marks stand for."""


class ImageFile:
    """One file, one thread at a time."""

    def __init__(self, path: str, scratch: str, reserve: Reserve) -> None:
        """`scratch`: where a copy goes that is read while the file itself cannot be opened."""
        self.path = path
        self._scratch = scratch
        self._reserve = reserve
        self._lock = threading.Lock()
        self._owed: dict[str, tuple[Statement, ...]] = {}
        """Deletions that could not be written, by id."""
        self._is_copy = False
        """The connection is not the file's own: that could not be opened, or mended."""
        self._reports: list[str] = []
        """What threads have mended, to be reported on the loop."""
        self._trouble = asyncio.Event()
        self.problem = ""
        self.told: Callable[[str, str], None] = lambda part, problem: None
        """As the follower's, and the next too."""
        self.mended: Callable[[str], None] = lambda text: None
        self.report = ""
        """What the start had to mend."""
        self.connection = self._open_at_start()
        """For who holds the lock; and for reading before anything is written."""

    def _open_at_start(self) -> sqlite3.Connection:
        remove(self._scratch)
        try:
            return self._opened()
        except (sqlite3.Error, OSError) as error:
            self._tell(problem_with(self.path, error))
            with contextlib.suppress(sqlite3.Error, OSError):
                if is_damage(error):
                    self.report, connection = self._salvaged(self.path, error)
                    self._tell("")
                    return connection
                if is_full(error) and self._reserve.give_up():
                    connection = self._opened()
                    self._tell("")
                    return connection
        return self._copied()

    def _opened(self) -> sqlite3.Connection:
        connection = open_file(self.path, IMAGE_SCHEMA)
        try:
            connection.execute("PRAGMA synchronous=FULL")
            check(connection)
            connection.execute(_FORGOTTEN)
        except BaseException:
            connection.close()
            raise
        return connection

    def _salvaged(self, path: str, error: Exception) -> tuple[str, sqlite3.Connection]:
        saved = salvage(path, IMAGE_SCHEMA, error, noted=True)
        saved.connection.execute("PRAGMA synchronous=FULL")
        return saved.report, saved.connection

    def _copied(self) -> sqlite3.Connection:
        """A copy, with the log, for a disk that takes no writes: SQLite writes even to read."""
        self._is_copy = True
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(self.path + suffix, self._scratch + suffix)
        try:
            connection = open_file(self._scratch, IMAGE_SCHEMA)
            check(connection)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self.report, connection = self._salvaged(self._scratch, error)
        return connection

    async def write(self, *statements: Statement) -> None:
        """Commit them, all or none, and have them on disk. sqlite3.Error, OSError, Unavailable."""
        try:
            await self._run(f"writing {self.path}", lambda: self._write(statements))
        except Unavailable:
            self._tell(f"{self.path}: its disk does not answer within {LIMIT:g} s")
            raise
        except (sqlite3.Error, OSError) as error:
            self._tell(problem_with(self.path, error))
            raise
        self._tell("")

    async def remove(self, key: str, *statements: Statement) -> None:
        """The same for what removes rows: if that cannot be written now, it will be."""
        self._owed[key] = statements
        with contextlib.suppress(sqlite3.Error, OSError, Unavailable):
            await self.write()

    async def read(self, query: str, key: str) -> Sequence[object] | None:
        """The one row that the query finds for the key, or None. sqlite3.Error, OSError, Unavailable."""

        return await self._run(f"reading {self.path}", lambda: self._read(query, key))

    async def heal_forever(self) -> None:
        """After a failure: try until it can be written again. For the daemon's life."""
        while True:
            await self._trouble.wait()
            await asyncio.sleep(RETRY)
            with contextlib.suppress(sqlite3.Error, OSError, Unavailable):
                await self.write()

    async def _run(self, what: str, work: Callable[[], T]) -> T:
        try:
            return await RECORDS.run(Job(what, limit=LIMIT), self._alone, work)
        except Overdue as error:
            raise Unavailable(str(error)) from error
        finally:
            while self._reports:
                self.mended(self._reports.pop())

    def _tell(self, problem: str) -> None:
        self.problem = problem
        if problem:
            self._trouble.set()
        else:
            self._trouble.clear()
        self.told(self.path, problem)

    def _alone(self, work: Callable[[], T]) -> T:
        if not self._lock.acquire(timeout=LIMIT):
            raise StillHung("an earlier write hangs")
        try:
            return work()
        finally:
            self._lock.release()

    def _write(self, statements: Sequence[Statement]) -> None:
        try:
            self._commit(statements)
        except (sqlite3.Error, OSError) as error:
            if is_damage(error):
                self._mend(error)
            elif isinstance(error, FileNotFoundError) and not self._is_copy:
                self._put_back()
            elif not is_full(error) or not self._reserve.give_up():
                self._reserve.try_writing()
                raise
            self._commit(statements)

    def _read(self, query: str, key: str) -> Sequence[object] | None:
        try:
            row: Sequence[object] | None = self.connection.execute(query, (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            if self._is_copy or not is_damage(error):
                raise
            self._mend(error)
            row = self.connection.execute(query, (key,)).fetchone()
        return row

    def _mend(self, error: Exception) -> None:
        self.connection.close()
        self._is_copy = True  # if this fails it is tried again, by the next write
        report, self.connection = self._salvaged(self.path, error)
        self._is_copy = False
        self._reports.append(report)

    def _put_back(self) -> None:
        """Somebody has removed the file, or its log; all of it can still be read from what is open."""
        fresh = f"{self.path}{SALVAGED}"
        remove(fresh)
        self.connection.execute("VACUUM INTO ?", (fresh,))
        with open(fresh, "rb") as written:
            os.fsync(written.fileno())
        self.connection.close()  # before the new one has a log, which this would remove by its name
        self._is_copy = True  # as in `_mend`
        remove(self.path)
        os.rename(fresh, self.path)
        self.connection = self._opened()
        self._is_copy = False
        self._reports.append(f"{self.path} was removed while it was in use, and is written again")

    def _commit(self, statements: Sequence[Statement]) -> None:
        if self._is_copy:
            connection = self._opened()
            self.connection.close()
            self.connection, self._is_copy = connection, False
            remove(self._scratch)
        owed = dict(self._owed)
        due = [*(one for removal in owed.values() for one in removal), *statements]
        commit(self.connection, due or [(PROBE, ())])
        for key, removal in owed.items():
            if self._owed.get(key) is removal:
                del self._owed[key]
        shorten_log(self.connection, self.path)

    def close(self) -> None:
        """What is under way is finished first, if the disk answers."""
        if self._lock.acquire(timeout=LIMIT):
            self.connection.close()
            self._lock.release()
            if self._is_copy:
                remove(self._scratch)
