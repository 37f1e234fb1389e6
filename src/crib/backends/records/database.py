"""Two SQLite files in WAL mode (https://www.sqlite.org/wal.html), one for each way of writing.

Pods and containers are written by the daemon's loop with `synchronous=NORMAL`: no fsync in its way, and what
a power cut may take are rows of pods that it took too. Checkpoints (the fsyncs of WAL mode) run off the loop,
never inside a commit. Images are written with `synchronous=FULL`, off the loop; a file of their own keeps a
pod's commit from waiting for an image's fsync, as a WAL has one writer at a time.

A file that is damaged is set aside, and said so: it must not keep the node from starting. All of them are for
root alone: records hold what pods have in their environment.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Sequence

from crib.model.errors import Broken

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
BUSY_TIMEOUT = 10.0
"""Seconds that one connection waits for another's commit."""
CHECKPOINT_INTERVAL = 10.0

_UNREADABLE = "CREATE TABLE IF NOT EXISTS unreadable (noun TEXT, id TEXT, record BLOB, error TEXT);"
_ROWS = "(id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;"
POD_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS sandboxes {_ROWS}
CREATE TABLE IF NOT EXISTS containers {_ROWS}
{_UNREADABLE}
"""
# Documents are kept apart from the records, which are all held in memory; the rows are large, so there is a
# rowid. An image from before there were documents has none; an earlier crib removes an image without them.
_DOCUMENTS = "(id TEXT PRIMARY KEY, config BLOB NOT NULL, manifest BLOB NOT NULL);"
_FORGOTTEN = "DELETE FROM image_documents WHERE id NOT IN (SELECT id FROM images);"
IMAGE_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS images {_ROWS}
CREATE TABLE IF NOT EXISTS image_documents {_DOCUMENTS}
{_FORGOTTEN}
{_UNREADABLE}
"""

Statement = tuple[str, Sequence[object]]
"""SQL, and what its question marks stand for."""


class SchemaTooNew(Broken):
    """The file was written by a later crib."""


class Database:
    """The files' three connections: the loop's, its checkpointer's, and the durable writer's."""

    def __init__(self, path: str, image_path: str) -> None:
        self.path, self.image_path = path, image_path
        self.connection = _open(path, POD_SCHEMA)
        """For the event loop's thread: commits take some tens of microseconds."""
        self.connection.execute("PRAGMA synchronous=NORMAL")
        self.connection.execute("PRAGMA wal_autocheckpoint=0")
        self.image_connection = _open(image_path, IMAGE_SCHEMA)
        """For one thread at a time, which holds the lock; and for reading before anything is written."""
        self.image_connection.execute("PRAGMA synchronous=FULL")
        self._image_lock = threading.Lock()
        self._checkpointer = _connect(path)

    async def execute_durably(self, *statements: Statement) -> None:
        """Commit statements on the images' file, all or none, and have them on disk before returning."""
        await asyncio.to_thread(self._execute_durably, statements)

    def _execute_durably(self, statements: Sequence[Statement]) -> None:
        connection = self.image_connection
        with self._image_lock:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for statement, values in statements:
                    connection.execute(statement, values)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite itself ends one that a full disk has broken
                    connection.execute("ROLLBACK")
                raise

    async def read_image_row(self, query: str, key: str) -> Sequence[object] | None:
        """The one row of the images' file that the query finds for the key, or None."""
        return await asyncio.to_thread(self._read_image_row, query, key)

    def _read_image_row(self, query: str, key: str) -> Sequence[object] | None:
        with self._image_lock:
            row: Sequence[object] | None = self.image_connection.execute(query, (key,)).fetchone()
            return row

    async def checkpoint_forever(self) -> None:
        """Move the pods' write-ahead log into its file from time to time, so that it stays short."""
        while True:
            await asyncio.sleep(CHECKPOINT_INTERVAL)
            await asyncio.to_thread(self._checkpoint)

    def _checkpoint(self) -> None:
        try:
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.OperationalError as error:
            log.warning("checkpoint of %s: %s", self.path, error)

    def close(self) -> None:
        with self._image_lock:  # a write that has begun is finished first
            self.image_connection.close()
        self._checkpointer.close()
        self.connection.close()


def _connect(path: str) -> sqlite3.Connection:
    # Each connection is used by one thread at a time: the loop's, or one that holds a lock.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    return connection


def _open(path: str, schema: str) -> sqlite3.Connection:
    _keep_private(path)
    try:
        return _prepare(path, schema)
    except sqlite3.OperationalError:
        raise  # locked, no room, no permission: the file itself is not to blame
    except sqlite3.DatabaseError as error:
        aside = f"{path}.broken-{time.time_ns()}"
        log.error("%s is damaged (%s): it is kept as %s, and a new one begins", path, error, aside)
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, aside + suffix)
        return _prepare(path, schema)


def _keep_private(path: str) -> None:
    """For root alone, with its log, its index, and what was set aside; those to come get the file's mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in glob.glob(f"{glob.escape(path)}*"):
        if stat.S_IMODE(os.stat(file).st_mode) != 0o600:
            os.chmod(file, 0o600)


def _prepare(path: str, schema: str) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        _check_version(connection, path)
        connection.executescript(schema)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, path: str) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(f"{path} has schema {version}, this crib knows up to {SCHEMA_VERSION}")
