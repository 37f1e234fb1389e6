"""The `Records` port over SQLite: one row a record, msgpack inside."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from crib.backends.records.check import check_databases
from crib.backends.records.database import Database, Statement
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, Exhausted
from crib.model.finding import Finding
from crib.model.ids import ContainerId, ImageId, SandboxId
from crib.model.image import ImageDocuments, ImageRecord
from crib.model.sandbox import SandboxRecord
from crib.ports import AllRecords

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_DOCUMENT = 8 << 20
"""Bytes of one document of an image at most: as many as a pull takes."""
CHECK_LIMIT = 600.0
"""Seconds that a check of the databases may take."""
_PUT_IMAGE = "REPLACE INTO images VALUES (?, ?)"
_PUT_DOCUMENTS = "REPLACE INTO image_documents VALUES (?, ?, ?)"
_DELETE_IMAGE = "DELETE FROM images WHERE id = ?"
_DELETE_DOCUMENTS = "DELETE FROM image_documents WHERE id = ?"
_READ_DOCUMENTS = "SELECT CAST(config AS BLOB), CAST(manifest AS BLOB) FROM image_documents WHERE id = ?"

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

    async def put_image(self, record: ImageRecord, documents: ImageDocuments | None = None) -> None:
        """Record and documents in one commit; Exhausted when a document is longer than `MAX_DOCUMENT`."""
        with _trying("write image", record.id):
            statements: list[Statement] = [(_PUT_IMAGE, (record.id, _encode(record)))]
            if documents is not None:
                _check_size(record.id, documents)
                statements.append((_PUT_DOCUMENTS, (record.id, documents.config, documents.manifest)))
            await self._database.execute_durably(*statements)

    async def image_documents(self, image: ImageId) -> ImageDocuments:
        with _trying("read documents of image", image):
            row = await self._database.read_image_row(_READ_DOCUMENTS, image)
        if row is None:
            return ImageDocuments()
        config, manifest = row
        assert isinstance(config, bytes)
        assert isinstance(manifest, bytes)
        return ImageDocuments(config, manifest)

    async def delete_image(self, image: ImageId) -> None:
        """Record and documents in one commit."""
        with _trying("delete image", image):
            await self._database.execute_durably((_DELETE_IMAGE, (image,)), (_DELETE_DOCUMENTS, (image,)))

    async def check(self) -> Sequence[Finding]:
        return await OURS.run(
            Job("checking the databases", limit=CHECK_LIMIT),
            check_databases,
            self._database.path,
            self._database.image_path,
        )

    def close(self) -> None:
        self._database.close()


def _check_size(image: ImageId, documents: ImageDocuments) -> None:
    size = max(len(documents.config), len(documents.manifest))
    if size > MAX_DOCUMENT:
        raise Exhausted(f"image {image} has a document of {size} bytes, at most {MAX_DOCUMENT} are kept")


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
