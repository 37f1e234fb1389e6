"""The `Records` port over SQLite: one row a record, msgpack inside."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import msgspec

from crib.backends.records.boot_file import Change
from crib.backends.records.database import Database
from crib.backends.records.follower import Changed
from crib.backends.records.image_file import Statement
from crib.backends.records.salvage import LOST_FILE, check_databases
from crib.backends.records.sqlite_files import commit, is_full
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import Broken, Exhausted
from crib.model.finding import Finding
from crib.model.ids import ContainerId, ImageId, SandboxId
from crib.model.image import ImageDocuments, ImageRecord
from crib.model.sandbox import SandboxRecord
from crib.model.volumes import SnapshotId, SnapshotRecord, VolumeId, VolumeRecord
from crib.ports.records import AllRecords

_log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_DOCUMENT = 8 << 20
"""Bytes of one document of an image at most: as many as a pull takes."""
CHECK_LIMIT = 60.0
"""Seconds that a check of the databases may take."""
SIZE_LIMIT = 2.0
"""Seconds that a look at their sizes may take."""
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
    except (sqlite3.Error, OSError) as error:
        kind = Exhausted if is_full(error) else Broken
        raise kind(f"database: {what} {key}: {error}") from error
    except (msgspec.MsgspecError, UnicodeError, OverflowError) as error:
        raise Broken(f"database: {what} {key}: the record cannot be written: {error}") from error


class SqliteRecords:
    """See `database` for what is written when, and what a power cut may take."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pods = database.pods
        self._images = database.images

    def load(self) -> AllRecords:
        """All rows; one that cannot be read is moved to the table `unreadable` and logged."""
        pods, images = self._pods.connection, self._images.connection
        moved: list[Changed] = []
        rows = AllRecords(
            _load(pods, "sandboxes", SandboxRecord, moved),
            _load(pods, "containers", ContainerRecord, moved),
            _load(images, "images", ImageRecord, []),
            volumes=_load(pods, "volumes", VolumeRecord, moved),
            snapshots=_load(pods, "volume_snapshots", SnapshotRecord, moved),
        )
        self._pods.follow(moved)
        return replace(rows, lost_images=_lost(images, {row.id for row in rows.images}))

    def watch(self, told: Callable[[str], None], mended: Callable[[str], None]) -> None:
        self._database.watch(told, mended)

    def put_sandbox(self, record: SandboxRecord) -> None:
        self._put("sandboxes", record.id, record)

    def delete_sandbox(self, sandbox: SandboxId) -> None:
        self._delete("sandboxes", sandbox)

    def put_container(self, record: ContainerRecord) -> None:
        self._put("containers", record.id, record, synced=record.state is ContainerState.EXITED)

    def delete_container(self, container: ContainerId) -> None:
        self._delete("containers", container)

    def put_volume(self, record: VolumeRecord) -> None:
        self._put("volumes", record.id, record, synced=not record.uses)

    def delete_volume(self, volume: VolumeId) -> None:
        self._delete("volumes", volume)

    def put_snapshot(self, record: SnapshotRecord) -> None:
        self._put("volume_snapshots", record.id, record, synced=True)

    def delete_snapshot(self, snapshot: SnapshotId) -> None:
        self._delete("volume_snapshots", snapshot)

    def _put(self, table: str, key: str, record: object, *, synced: bool = False) -> None:
        with _trying("write a row of", f"{table}: {key}"):
            blob = _encode(record)
        statement = f"REPLACE INTO {table} VALUES (?, ?)"  # noqa: S608  # a name of ours
        self._pods.write([Change((table, key), statement, (key, blob), synced)])

    def _delete(self, table: str, key: str) -> None:
        self._pods.write([Change((table, key), f"DELETE FROM {table} WHERE id = ?", (key,))])  # noqa: S608

    async def put_image(self, record: ImageRecord, documents: ImageDocuments | None = None) -> None:
        """Record and documents in one commit; Exhausted when a document is longer than `MAX_DOCUMENT`."""
        with _trying("write image", record.id):
            statements: list[Statement] = [(_PUT_IMAGE, (record.id, _encode(record)))]
            if documents is not None:
                _check_size(record.id, documents)
                statements.append((_PUT_DOCUMENTS, (record.id, documents.config, documents.manifest)))
            await self._images.write(*statements)

    async def image_documents(self, image: ImageId) -> ImageDocuments:
        with _trying("read documents of image", image):
            row = await self._images.read(_READ_DOCUMENTS, image)
        if row is None:
            return ImageDocuments()
        config, manifest = row
        assert isinstance(config, bytes)
        assert isinstance(manifest, bytes)
        return ImageDocuments(config, manifest)

    async def delete_image(self, image: ImageId) -> None:
        """Record and documents in one commit; if that cannot be now, it will be tried again."""
        await self._images.remove(image, (_DELETE_IMAGE, (image,)), (_DELETE_DOCUMENTS, (image,)))

    async def sizes(self) -> Mapping[str, int]:
        try:
            return await OURS.run(
                Job("measuring the databases", limit=SIZE_LIMIT), _sizes, self._database.files
            )
        except OSError:  # the disk does not answer
            return {}

    async def check(self) -> Sequence[Finding]:
        job = Job("checking the databases", limit=CHECK_LIMIT)
        with _trying("check", ", ".join(self._database.files)):
            return await OURS.run(job, check_databases, *self._database.files)

    def close(self) -> None:
        self._database.close()


def _check_size(image: ImageId, documents: ImageDocuments) -> None:
    size = max(len(documents.config), len(documents.manifest))
    if size > MAX_DOCUMENT:
        raise Exhausted(f"image {image} has a document of {size} bytes, at most {MAX_DOCUMENT} are kept")


def _load(connection: sqlite3.Connection, noun: str, kind: type[T], moved: list[Changed]) -> Sequence[T]:
    """What cannot be read is set aside, and the rows that this changes are added to `moved`."""
    decoder = msgspec.msgpack.Decoder(kind)
    found = []
    with _trying("read", noun):
        query = f"SELECT id, CAST(record AS BLOB) FROM {noun}"  # noqa: S608  # a name of ours
        rows = connection.execute(query).fetchall()
    for key, blob in rows:
        try:
            found.append(decoder.decode(blob))
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            _log.error("row %s in %s cannot be read and is set aside: %s", key, noun, error)
            moved += _set_aside(connection, (noun, key, blob, str(error)))
    return found


def _lost(connection: sqlite3.Connection, known: set[ImageId]) -> tuple[str, ...]:
    """Images that cannot be read and have not come again, and damaged files that nobody has removed yet."""
    with _trying("read", "what is unreadable"):
        rows = connection.execute("SELECT noun, id, error FROM unreadable").fetchall()
    return tuple(
        f"{noun} {key}: {error}"
        for noun, key, error in rows
        if (noun == LOST_FILE and os.path.exists(key)) or (noun == "images" and key not in known)
    )


def _set_aside(connection: sqlite3.Connection, row: tuple[str, str, bytes, str]) -> Sequence[Changed]:
    noun, key = row[:2]
    moved: list[Statement] = [
        (f"DELETE FROM {noun} WHERE id = ?", (key,)),  # noqa: S608  # a name of ours
        ("INSERT INTO unreadable VALUES (?, ?, ?, ?)", row),
    ]
    try:
        commit(connection, moved)
    except sqlite3.Error as error:  # of a full disk: it stays where it is, and is as unreadable the next time
        _log.error("row %s in %s could not be set aside: %s", key, noun, error)
        return ()
    (inserted,) = connection.execute("SELECT last_insert_rowid()").fetchone()
    return (noun, key), ("unreadable", inserted)


def _sizes(paths: Iterable[str]) -> dict[str, int]:
    """With what is not in the file itself yet (SQLite's -wal and -shm)."""
    found: dict[str, int] = {}
    for path in paths:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                found[path] = found.get(path, 0) + os.stat(path + suffix).st_blocks * 512
    return found
