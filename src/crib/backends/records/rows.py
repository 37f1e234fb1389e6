"""The `Records` port over SQLite: one row a record, msgpack inside."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from crib.backends.records.database import Database
from crib.model.container import ContainerRecord
from crib.model.ids import ContainerId, ImageId, SandboxId
from crib.model.image import ImageRecord
from crib.model.sandbox import SandboxRecord
from crib.ports import AllRecords

log = logging.getLogger(__name__)
T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


class SqliteRecords:
    """Writes are committed when a call returns; see `database` for what a power cut may take."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection = database.connection

    def load(self) -> AllRecords:
        """All rows; one that cannot be read is moved to the table `unreadable` and logged."""
        return AllRecords(
            self._load("sandboxes", SandboxRecord),
            self._load("containers", ContainerRecord),
            self._load("images", ImageRecord),
        )

    def _load(self, noun: str, kind: type[T]) -> Sequence[T]:
        decoder = msgspec.msgpack.Decoder(kind)
        found = []
        for key, blob in self._connection.execute(f"SELECT id, record FROM {noun}").fetchall():  # noqa: S608  # a name of ours
            try:
                found.append(decoder.decode(blob))
            except (msgspec.MsgspecError, ValueError, TypeError) as error:
                log.error("row %s in %s cannot be read and is set aside: %s", key, noun, error)
                with self._connection:
                    self._connection.execute(
                        "INSERT INTO unreadable VALUES (?, ?, ?, ?)", (noun, key, blob, str(error))
                    )
                    self._connection.execute(f"DELETE FROM {noun} WHERE id = ?", (key,))  # noqa: S608  # a name of ours
        return found

    def put_sandbox(self, record: SandboxRecord) -> None:
        self._connection.execute("REPLACE INTO sandboxes VALUES (?, ?)", (record.id, _encode(record)))

    def delete_sandbox(self, sandbox: SandboxId) -> None:
        self._connection.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox,))

    def put_container(self, record: ContainerRecord) -> None:
        self._connection.execute("REPLACE INTO containers VALUES (?, ?)", (record.id, _encode(record)))

    def delete_container(self, container: ContainerId) -> None:
        self._connection.execute("DELETE FROM containers WHERE id = ?", (container,))

    async def put_image(self, record: ImageRecord) -> None:
        await self._database.execute_durably(
            "REPLACE INTO images VALUES (?, ?)", (record.id, _encode(record))
        )

    async def delete_image(self, image: ImageId) -> None:
        await self._database.execute_durably("DELETE FROM images WHERE id = ?", (image,))

    def close(self) -> None:
        self._database.close()
