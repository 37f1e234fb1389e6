"""Pods' rows as they are now, in a file that lasts as long as what they describe: until the next boot.

It lies with the state, on a tmpfs, which never hangs, is never read-only, and is not filled by what
containers write. So a row is written there at once, on the loop, in some tens of microseconds. The disk
follows (`follower`).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from crib.backends.records.follower import RETRY, Changed, Follower, problem_with, take_all
from crib.backends.records.sqlite_files import BUSY_TIMEOUT, check, commit, file_at, open_file, remove

_log = logging.getLogger(__name__)

MOST_OWED = 20_000
"""Rows that wait to be written; beyond that the journal's are dropped."""
BUSY = 0.1
"""Seconds for which the loop waits where somebody else has locked the file: a person's `sqlite3`."""
_ORIGIN = "CREATE TABLE IF NOT EXISTS origin (boot TEXT, holder TEXT);"


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose the rows are. Another boot's, or those that another daemon has written since, are not ours."""

    boot: str
    holder: str
    """Who had the data directory last: what its lock file says; empty where there is none yet."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row to be written or deleted."""

    row: Changed
    sql: str
    values: tuple[object, ...]
    synced: bool = False
    """It is to be safe from a power cut soon."""


def open_boot_file(
    path: str, schema: str, before: Origin, mended: list[str]
) -> tuple[sqlite3.Connection, bool]:
    """The file, and whether it holds the rows of that origin; else it is new and empty.

    Any earlier holder of this boot will do: the lock file may be on a disk that lost its last writes.
    """
    try:
        connection = _open(path, schema)
        holders = [name for boot, name in connection.execute("SELECT * FROM origin") if boot == before.boot]
        if holders and before.holder in ("", *holders):
            check(connection)
            return connection, True
        connection.close()
        _log.info("%s is of another boot, or others had the data since, and is made again", path)
    except sqlite3.DatabaseError as error:
        mended.append(f"{path} was damaged ({error}) and is made again, with what was on disk")
    remove(path)
    return _open(path, schema), False


def _open(path: str, schema: str) -> sqlite3.Connection:
    connection = open_file(path, schema + _ORIGIN)
    connection.execute("PRAGMA synchronous=OFF")  # it ends with the boot
    connection.execute("PRAGMA wal_autocheckpoint=256")
    return connection


def sign(connection: sqlite3.Connection, origin: Origin) -> None:
    """Say whose the rows are from now on."""
    connection.execute("INSERT INTO origin VALUES (?, ?)", (origin.boot, origin.holder))


def _anew(connection: sqlite3.Connection, path: str, schema: str) -> sqlite3.Connection:
    """Replace the file that the connection still holds by another one with the same content."""
    remove(path)  # SQLite would read a log of the old one as its own
    made = _open(path, schema)
    try:
        take_all(connection, made)
        made.executemany("INSERT INTO origin VALUES (?, ?)", connection.execute("SELECT * FROM origin"))
    except BaseException:
        made.close()
        remove(path)  # half of it must not be found by the next start
        raise
    connection.close()
    return made


class BootRows:
    """Writes of the loop's thread. None fails: a row that cannot be written is owed, and tried again."""

    def __init__(self, connection: sqlite3.Connection, path: str, schema: str, follower: Follower) -> None:
        self.connection = connection
        self._path = path
        self._schema = schema
        self._follower = follower
        self._file = file_at(path)
        self._wait_at_most(BUSY)
        follower.look_at_source = self._look
        self._owed: dict[Changed, Change] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._is_due = False
        self.told: Callable[[str, str], None] = lambda part, problem: None
        """As the follower's."""
        self.mended: Callable[[str], None] = lambda text: None

    def _wait_at_most(self, seconds: float) -> None:
        self.connection.execute(f"PRAGMA busy_timeout={seconds * 1000:.0f}")

    def _look(self) -> bool:
        """Whether the file had been removed or replaced, and was written again."""
        if file_at(self._path) == self._file:
            return False
        try:
            self.connection = _anew(self.connection, self._path, self._schema)
        except (sqlite3.Error, OSError) as error:
            self.told(self._path, problem_with(self._path, error))
            return False
        self._file = file_at(self._path)
        self._wait_at_most(BUSY)
        self.mended(f"{self._path} was removed or replaced, and is written again: nothing is lost")
        self.told(self._path, "")
        return True

    def write(self, changes: Sequence[Change]) -> None:
        """All of them in one commit."""
        for change in changes:
            self._owed.pop(change.row, None)
            self._owed[change.row] = change
        if self._retry is None:  # else each write would wait for who has locked the file
            self._pay()

    def follow(self, changed: Iterable[Changed]) -> None:
        """These rows have been changed by others, perhaps after the follower's first look at all of them."""
        self._follower.mark(changed)

    def owe(self, changes: Sequence[Change]) -> None:
        """Write them with the next row, in one commit, and at the latest when the loop turns."""
        if len(self._owed) + len(changes) > MOST_OWED:
            return
        for change in changes:
            self._owed.pop(change.row, None)
            self._owed[change.row] = change
        if self._retry is None and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._pay_due)

    def _pay_due(self) -> None:
        self._is_due = False
        if self._owed and self._retry is None:
            self._pay()

    def _pay(self) -> None:
        self._retry = None
        if not self._try_paying():
            self._retry = asyncio.get_running_loop().call_later(RETRY, self._pay)

    def _try_paying(self) -> bool:
        """Write what is owed; whether that succeeded."""
        owed = tuple(self._owed.values())
        try:
            if len(owed) == 1:
                self.connection.execute(owed[0].sql, owed[0].values)
            else:
                commit(self.connection, [(change.sql, change.values) for change in owed])
        except sqlite3.Error as error:
            self.told(self._path, problem_with(self._path, error))
            return False
        self._owed.clear()
        self.told(self._path, "")
        for synced in (False, True):
            self._follower.mark((one.row for one in owed if one.synced is synced), synced=synced)
        return True

    def settle(self) -> None:
        """The last try to write what is pending. Blocks: nobody needs the loop any more."""
        if not self._owed:
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._wait_at_most(BUSY_TIMEOUT)
        if not self._try_paying():
            _log.error("%s: %d rows could not be written, and are lost", self._path, len(self._owed))

    def close(self) -> None:
        self.connection.close()
