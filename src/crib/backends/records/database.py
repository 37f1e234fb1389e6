"""One SQLite file in WAL mode (https://www.sqlite.org/wal.html), and who may write to it how.

The daemon's loop writes small rows with `synchronous=NORMAL`: no fsync in its way, and what a power cut may
take are rows of pods that it took too. Image rows go through a second connection with `synchronous=FULL`,
off the loop. Checkpoints (the fsyncs of WAL mode) run off the loop as well, never inside a commit.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
BUSY_TIMEOUT = 10.0
"""Seconds that one connection waits for another's commit."""
CHECKPOINT_INTERVAL = 10.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS sandboxes (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS containers (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unreadable (noun TEXT, id TEXT, record BLOB, error TEXT);
"""


class SchemaTooNew(Exception):
    """The file was written by a later crib."""


class Database:
    """The file's three connections: the loop's, the durable writer's, the checkpointer's."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.connection = self._connect("NORMAL")
        """For the event loop's thread: commits take some tens of microseconds."""
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SchemaTooNew(f"{path} has schema {version}, this crib knows up to {SCHEMA_VERSION}")
        self.connection.executescript(SCHEMA)
        self.connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._durable = self._connect("FULL")
        self._durable_lock = threading.Lock()

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        # Connections are used by one thread at a time: the loop's, or one that holds the lock.
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        return connection

    async def execute_durably(self, statement: str, values: tuple[object, ...]) -> None:
        """Commit one statement and have it on disk before returning."""
        await asyncio.to_thread(self._execute_durably, statement, values)

    def _execute_durably(self, statement: str, values: tuple[object, ...]) -> None:
        with self._durable_lock:
            self._durable.execute(statement, values)

    async def checkpoint_forever(self) -> None:
        """Move the write-ahead log into the file from time to time, so that it stays short."""
        while True:
            await asyncio.sleep(CHECKPOINT_INTERVAL)
            await asyncio.to_thread(self._checkpoint)

    def _checkpoint(self) -> None:
        with self._durable_lock:
            try:
                self._durable.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.OperationalError as error:
                log.warning("checkpoint of %s: %s", self.path, error)

    def close(self) -> None:
        with self._durable_lock:  # a write that has begun is finished first
            self._durable.close()
        self.connection.close()
