"""The `Records` port over SQLite: one row a record, msgpack inside."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from crib.backends.records.database import Database
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, Exhausted
from crib.model.ids import ContainerId, ImageId, SandboxId
from crib.model.image import ImageRecord
from crib.model.sandbox import SandboxRecord
from crib.ports import AllRecords

log = logging.getLogger(__name__)
T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


@contextmanager
def _trying(what: str, key: str) -> Iterator[None]:
    """Turns what SQLite and the encoder say into errors of ours."""
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        kind = Exhausted if full else Broken
        raise kind(f"database: {what} {key}: {error}") from error
    except (msgspec.MsgspecError, UnicodeError, OverflowError) as error:
        raise Broken(f"database: {what} {key}: the record cannot be written: {error}") from error


class SqliteRecords:
    """Writes are committed when a call returns; see `database` for what a power cut may take."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection = database.connection

    def load(self) -> AllRecords:
        """All rows; one that cannot be read is moved to the table `unreadable` and logged."""
        pods, images = self._connection, self._database.image_connection
        return AllRecords(
            _load(pods, "sandboxes", SandboxRecord),
            _load(pods, "containers", ContainerRecord),
            _load(images, "images", ImageRecord),
        )

    def put_sandbox(self, record: SandboxRecord) -> None:
        with _trying("write sandbox", record.id):
            self._connection.execute("REPLACE INTO sandboxes VALUES (?, ?)", (record.id, _encode(record)))

    def delete_sandbox(self, sandbox: SandboxId) -> None:
        with _trying("delete sandbox", sandbox):
            self._connection.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox,))

    def put_container(self, record: ContainerRecord) -> None:
        with _trying("write container", record.id):
            self._connection.execute("REPLACE INTO containers VALUES (?, ?)", (record.id, _encode(record)))

    def delete_container(self, container: ContainerId) -> None:
        with _trying("delete container", container):
            self._connection.execute("DELETE FROM containers WHERE id = ?", (container,))

    async def put_image(self, record: ImageRecord) -> None:
        with _trying("write image", record.id):
            await self._database.execute_durably(
                "REPLACE INTO images VALUES (?, ?)", (record.id, _encode(record))
            )

    async def delete_image(self, image: ImageId) -> None:
        with _trying("delete image", image):
            await self._database.execute_durably("DELETE FROM images WHERE id = ?", (image,))

    def close(self) -> None:
        self._database.close()


def _load(connection: sqlite3.Connection, noun: str, kind: type[T]) -> Sequence[T]:
    decoder = msgspec.msgpack.Decoder(kind)
    found = []
    with _trying("read", noun):
        query = f"SELECT id, CAST(record AS BLOB) FROM {noun}"  # noqa: S608  # a name of ours
        rows = connection.execute(query).fetchall()
    for key, blob in rows:
        try:
            found.append(decoder.decode(blob))
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            log.error("row %s in %s cannot be read and is set aside: %s", key, noun, error)
            _set_aside(connection, (noun, key, blob, str(error)))
    return found


def _set_aside(connection: sqlite3.Connection, row: tuple[str, str, bytes, str]) -> None:
    noun, key = row[:2]
    with _trying("set aside a row of", noun):
        connection.execute("BEGIN")
        try:
            connection.execute("INSERT INTO unreadable VALUES (?, ?, ?, ?)", row)
            connection.execute(f"DELETE FROM {noun} WHERE id = ?", (key,))  # noqa: S608  # a name of ours
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.execute("ROLLBACK")
            raise
