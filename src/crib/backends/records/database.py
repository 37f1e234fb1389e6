"""What is kept where: three SQLite files, each with its own way of being written.

    STATE/records.db   pods, containers, addresses,  by the loop, at once; gone after a boot, as pods are
                       volumes, the journal
    DATA/crib.db       the same                      follows, off the loop; it outlives a boot
    DATA/images.db     images                        off the loop, synced, before a caller goes on

So a verb never waits for a disk to have its rows recorded, and a daemon that is killed finds all of them
again, whatever the disk did: full, read-only, damaged or hung. While the disk cannot follow, that is a fault
of the node. An end of a container is synced with the batch that it is in: its exit code survives a power cut.

Only root can read them: records hold what pods have in their environment.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from crib.backends.records.boot_file import BootRows, Origin, open_boot_file, sign
from crib.backends.records.follower import LIMIT, Follower, problem_with, take_all
from crib.backends.records.image_file import ImageFile
from crib.backends.records.salvage import salvage
from crib.backends.records.sqlite_files import (
    ROWS,
    Reserve,
    check,
    is_damage,
    is_full,
    keep_private,
    open_file,
    remove,
)
from crib.model.errors import Broken
from crib.model.paths import Paths

LAST_LOOK = 1.0
"""Seconds that the end of the daemon waits for a disk whose fault is already known."""
POD_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS sandboxes {ROWS}
CREATE TABLE IF NOT EXISTS containers {ROWS}
CREATE TABLE IF NOT EXISTS volumes {ROWS}
CREATE TABLE IF NOT EXISTS volume_snapshots {ROWS}
CREATE TABLE IF NOT EXISTS unreadable (noun TEXT, id TEXT, record BLOB, error TEXT);
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, at INTEGER NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS kept
    (id TEXT PRIMARY KEY, title TEXT NOT NULL, at INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class LockNotes:
    """Of the data directory's lock: what it said before we had it, and what it says since."""

    before: str = ""
    now: str = ""


class Database:
    """The files, from a start to its end. Made on the loop's thread, before anything else needs them."""

    def __init__(self, paths: Paths, boot: str = "", notes: LockNotes = LockNotes()) -> None:
        try:
            self._open(paths, boot, notes)
        except sqlite3.Error as error:
            raise Broken(f"records in {paths.state} and {paths.data} cannot be opened: {error}") from error

    def _open(self, paths: Paths, boot: str, notes: LockNotes) -> None:
        self._paths = paths
        self.files = paths.boot_records, paths.database, paths.image_database
        self._problems: dict[str, str] = {}
        self._watcher: Callable[[str], None] = lambda problem: None
        self.mended: list[str] = []
        """What the start had to repair."""
        self._reserve = Reserve(paths.reserve)
        self._follower = Follower(paths.database, paths.boot_records, self._reserve, POD_SCHEMA)
        before = Origin(boot, notes.before)
        connection, is_current = open_boot_file(paths.boot_records, POD_SCHEMA, before, self.mended)
        if not is_current:
            self._fill(connection)
        with contextlib.suppress(OSError):  # the follower reports what is wrong with its disk
            keep_private(paths.database)
        sign(connection, Origin(boot, notes.now))
        self.pods = BootRows(connection, paths.boot_records, POD_SCHEMA, self._follower)
        self.images = ImageFile(paths.image_database, paths.scratch_images, self._reserve)
        if self.images.report:
            self.mended.append(self.images.report)
        try:
            self._reserve.keep()
        except OSError as error:  # reported before the first verb, and again by the follower
            self._problems.setdefault(paths.database, problem_with(paths.database, error))
        for part in (self._follower, self.pods, self.images):
            part.told = self._tell

    def _fill(self, connection: sqlite3.Connection) -> None:
        """Take over what the disk has: the first start of a boot."""
        path = self._paths.database
        try:
            found = self._opened_or_salvaged(path)
        except (sqlite3.Error, OSError) as error:
            self._problems[path] = problem_with(path, error)
            self._fill_from_copy(connection)
        else:
            take_all(found, connection)
            self._follower.take_over(found)

    def _opened_or_salvaged(self, path: str) -> sqlite3.Connection:
        try:
            return self._opened(path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            saved = salvage(path, POD_SCHEMA, error)
            self.mended.append(saved.report)
            return saved.connection

    def _opened(self, path: str) -> sqlite3.Connection:
        try:
            connection = open_file(path, POD_SCHEMA)
        except sqlite3.OperationalError as error:
            if not is_full(error) or not self._reserve.give_up():
                raise
            connection = open_file(path, POD_SCHEMA)
        try:
            check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _fill_from_copy(self, connection: sqlite3.Connection) -> None:
        """From a disk that takes no writes: SQLite writes even to read."""
        scratch = self._paths.scratch_records
        remove(scratch)
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(self._paths.database + suffix, scratch + suffix)
        found = self._opened_or_salvaged(scratch)
        take_all(found, connection)
        found.close()
        remove(scratch)

    def watch(self, told: Callable[[str], None], mended: Callable[[str], None]) -> None:
        """Report, on the loop, what cannot be kept and why (nothing: all can), and what was repaired."""
        self._watcher = told
        self._follower.mended = self.images.mended = self.pods.mended = mended
        for text in self.mended:
            mended(text)
        if self.images.problem:
            self._problems[self.images.path] = self.images.problem
        if self._problems:
            told(self.problem)

    @property
    def problem(self) -> str:
        return "; ".join(self._problems.values())

    def services(self) -> Sequence[tuple[str, Coroutine[Any, Any, None]]]:
        """What has to run for the daemon's life."""
        return (
            ("records on disk", self._follower.follow_forever()),
            ("records of images", self.images.heal_forever()),
        )

    def _tell(self, part: str, problem: str) -> None:
        if self._problems.get(part, "") == problem:
            return
        if problem:
            self._problems[part] = problem
        else:
            del self._problems[part]
        self._watcher(self.problem)
        self._follower.look()

    def close(self) -> None:
        """Write what is left. A disk that does not answer holds up the end, a known one not for long."""
        self.pods.settle()  # while the follower can still bring it to the disk
        until = time.monotonic() + (LAST_LOOK if self._problems else LIMIT)
        ends = [
            threading.Thread(target=part.close, name="crib-records-end", daemon=True)
            for part in (self._follower, self.images)
        ]
        for end in ends:
            end.start()
        for end in ends:
            end.join(max(0.0, until - time.monotonic()))
        self.pods.close()
