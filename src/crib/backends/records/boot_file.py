"""Pods' rows as they are now, in a file that lasts as long as what they tell of: until the next boot.

It lies with the state (a tmpfs), which is never full of what containers write, never hangs and is never
read-only: a row is written there at once, on the loop, in some tens of microseconds. The disk follows
(`follower`).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crib.backends.records.follower import RETRY, Changed, Follower, problem_with
from crib.backends.records.sqlite_files import check, commit, open_file, remove

log = logging.getLogger(__name__)

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
        log.info("%s is of another boot, or others had the data since, and is made anew", path)
    except sqlite3.DatabaseError as error:
        mended.append(f"{path} was damaged ({error}) and is made anew, with what was on disk")
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


class BootRows:
    """Writes of the loop's thread. None fails: a row that cannot be written is owed, and tried again."""

    def __init__(self, connection: sqlite3.Connection, path: str, follower: Follower) -> None:
        self.connection = connection
        self._path = path
        self._follower = follower
        self._owed: dict[Changed, Change] = {}
        self._retry: asyncio.TimerHandle | None = None
        self.told: Callable[[str, str], None] = lambda part, problem: None
        """As the follower's."""

    def write(self, changes: Sequence[Change]) -> None:
        """All of them in one commit."""
        for change in changes:
            self._owed.pop(change.row, None)
            self._owed[change.row] = change
        self._pay()

    def _pay(self) -> None:
        owed = tuple(self._owed.values())
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        try:
            if len(owed) == 1:
                self.connection.execute(owed[0].sql, owed[0].values)
            else:
                commit(self.connection, [(change.sql, change.values) for change in owed])
        except sqlite3.Error as error:
            self.told(self._path, problem_with(self._path, error))
            self._retry = asyncio.get_running_loop().call_later(RETRY, self._pay)
            return
        self._owed.clear()
        self.told(self._path, "")
        for synced in (False, True):
            self._follower.mark((one.row for one in owed if one.synced is synced), synced=synced)

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self.connection.close()
