"""Our SQLite files: readable by root only, in WAL mode (https://www.sqlite.org/wal.html)."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import sqlite3
import stat
import threading
from urllib.parse import quote

from crib.backends.records.migrations import SCHEMA_VERSION, bring_up

BUSY_TIMEOUT = 2.0
"""Seconds that a commit waits for somebody else's: a person's `sqlite3`, as we have one writer a file."""
CACHE_KIB = 256
"""Of a file, for each connection. SQLite's own 2 MiB would hold all rows of many pods once more: the file is
in memory anyway, on a tmpfs or in the page cache.
"""
LOG_BYTES = 8 << 20
"""A write-ahead log that is longer goes back to nothing after the next commit."""
SALVAGED = ".new"
"""Added to the name of a file that is about to take the place of a damaged one."""
SUFFIXES = ("", "-wal", "-shm")
ROWS = "(id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;"
"""Columns of every table of records, by the id of what they are of."""
PROBE = f"PRAGMA user_version={SCHEMA_VERSION}"
"""Writes the first page, though nothing changes."""
RESERVE_BYTES = 8 << 20
"""Some hundreds of commits."""


class Damaged(sqlite3.DatabaseError):
    """The file's own check found something."""


def existing(path: str) -> str:
    """The file for SQLite, which makes an empty one elsewhere in place of one that is gone. Needs `uri=True`.

    https://www.sqlite.org/uri.html
    """
    return f"file:{quote(os.fsencode(path))}?mode=rw"


def connect(path: str) -> sqlite3.Connection:
    """A connection for one thread at a time, every statement a transaction of its own. The file is there."""
    connection = sqlite3.connect(
        existing(path), timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, uri=True
    )
    connection.text_factory = lambda raw: raw.decode(errors="replace")  # of a damaged row
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_file(path: str, schema: str = "") -> sqlite3.Connection:
    """Open or make the file. sqlite3.Error, OSError, SchemaTooNew.

    What is there already is not written, but for the steps from an earlier schema.
    """
    if not os.path.exists(path) and os.path.exists(salvaged := f"{path}{SALVAGED}"):
        os.rename(salvaged, path)  # a salvage was cut off
    if not os.path.exists(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    keep_private(path)
    connection = connect(path)
    try:
        version = bring_up(connection, path)
        connection.executescript(schema)
        if not version:
            connection.execute(PROBE)
    except BaseException:
        connection.close()
        raise
    return connection


def keep_private(path: str) -> None:
    """Only root may read it, its log, its index and what was set aside; later ones get the file's mode."""
    for file in glob.glob(f"{glob.escape(path)}*"):
        if stat.S_IMODE(os.stat(file).st_mode) != 0o600:
            os.chmod(file, 0o600)


def check(connection: sqlite3.Connection) -> None:
    """Damaged when the file is not sound: each page, each index, in the time that reading the file takes."""
    (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise Damaged(said)


def commit(connection: sqlite3.Connection, statements: list[tuple[str, tuple[object, ...]]]) -> None:
    """All of them, or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement, values in statements:
            connection.execute(statement, values)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself ends one that a full disk has broken
            connection.execute("ROLLBACK")
        raise


def shorten_log(connection: sqlite3.Connection, path: str) -> None:
    """Move the log into the file, and empty it, when it has grown beyond `LOG_BYTES`."""
    if os.stat(f"{path}-wal").st_size > LOG_BYTES:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def set_aside(path: str, aside: str) -> None:
    """Rename a damaged file with its log."""
    for suffix in SUFFIXES:
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)


def remove(path: str) -> None:
    """The file with its log and index; none is fine."""
    for suffix in SUFFIXES:
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


def file_at(path: str) -> tuple[int, int]:
    """Device and inode; zeros where there is none. Somebody may have put another one there."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def is_damage(error: Exception) -> bool:
    """Whether the file itself is to blame; else it is locked, has no room, may not be written, and so on."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, Damaged) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_full(error: Exception) -> bool:
    """Whether there is no room on its file system, or none left of a quota."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = getattr(error, "sqlite_errorcode", 0)
    # A full disk has no room for the log's index either, which SQLite calls an I/O error.
    return code & 0xFF == sqlite3.SQLITE_FULL or code in (
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMOPEN,
    )


class Reserve:
    """A file of nothing. Its methods block, and may be called from any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._directory = os.path.dirname(path)
        self._lock = threading.Lock()

    def try_writing(self) -> None:
        """OSError when the disk takes no writes. SQLite's own message says less."""
        with self._lock:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, b"\0", 0)
            finally:
                os.close(fd)

    def keep(self) -> None:
        """Have the file, if there is room for it and as much again; OSError (ENOSPC, EROFS) else."""
        with self._lock:
            space = os.statvfs(self._directory)
            if space.f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), self._directory)
            if self._size() >= RESERVE_BYTES:
                return
            free = space.f_bfree * space.f_frsize
            if free < 2 * RESERVE_BYTES:
                raise OSError(errno.ENOSPC, f"no space left: {free >> 20} MiB are free", self._path)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
            finally:
                os.close(fd)

    def give_up(self) -> bool:
        """Free its room; whether there was any."""
        with self._lock, contextlib.suppress(OSError):
            size = self._size()
            os.unlink(self._path)
            return size > 0
        return False

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_blocks * 512
        except FileNotFoundError:
            return 0
