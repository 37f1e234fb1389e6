"""A damaged file: what can still be read of it goes into a new one, and the file itself is set aside.

A check finds damage and what was set aside; it changes nothing.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from crib.backends.records.sqlite_files import SALVAGED, existing, is_full, open_file, remove, set_aside
from crib.model.container import ContainerRecord
from crib.model.finding import Finding
from crib.model.ids import is_id
from crib.model.image import ImageRecord
from crib.model.sandbox import SandboxRecord
from crib.model.volumes import SnapshotRecord, VolumeRecord, is_volume_id
from crib.wire.sqlite_file import Row, rows

_log = logging.getLogger(__name__)

LOST_FILE = "file"
"""The noun, in the table `unreadable`, of a damaged file: what it had is lost until the file is removed."""
MAX_FILE = 1 << 30
"""Bytes of a file that is read whole."""
_ADDRESS_BYTES = (4, 16)
_KINDS: tuple[tuple[str, type[object]], ...] = (
    ("sandboxes", SandboxRecord),
    ("containers", ContainerRecord),
    ("images", ImageRecord),
    ("volumes", VolumeRecord),
    ("volume_snapshots", SnapshotRecord),
)
_CHECK_PATIENCE = 10.0
"""Seconds that a check waits for a writer."""
_AREA = "records"


@dataclass(frozen=True, slots=True)
class Salvage:
    """What became of a damaged file."""

    connection: sqlite3.Connection
    """Of the file that has taken its place."""
    report: str


def salvage(path: str, schema: str, error: Exception, *, noted: bool = False) -> Salvage:
    """Replace a damaged file by one with the rows that can still be read.

    `noted`: the table `unreadable` names the file that was set aside: nobody knows what its lost pages had.
    sqlite3.Error, OSError: nothing was changed, or `open_file` will finish it.
    """
    fresh, aside = f"{path}{SALVAGED}", f"{path}.broken-{time.time_ns()}"
    _log.error("%s is damaged (%s): what can still be read goes into a new one", path, error)
    remove(fresh)
    with contextlib.closing(open_file(fresh, schema)) as connection:
        kept = _fill(connection, path)
        if noted:
            note = (LOST_FILE, aside, str(error))
            connection.execute("INSERT INTO unreadable VALUES (?, ?, x'', ?)", note)
    set_aside(path, aside)
    os.rename(fresh, path)
    rows_kept = ", ".join(f"{number} of {table}" for table, number in sorted(kept.items())) or "none"
    return Salvage(
        open_file(path, schema),
        f"{path} was damaged ({error}); rows that could still be read: {rows_kept}; "
        f"those on damaged pages are lost; the damaged file is kept as {aside}",
    )


def _fill(connection: sqlite3.Connection, damaged: str) -> Counter[str]:
    """How many rows of each table were taken over."""
    kept = Counter[str]()
    connection.execute("BEGIN IMMEDIATE")
    for table, values in _found(_content(damaged), _content(f"{damaged}-wal")):
        marks = ", ".join("?" * len(values))
        try:
            connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)  # noqa: S608
        except sqlite3.OperationalError as refused:
            if not connection.in_transaction or is_full(refused):
                raise
            # A table of the bridge's that is not there, as nothing has asked for it yet.
            _log.warning("a row of %s in %s is not taken over: %s", table, damaged, refused)
            continue
        kept[table] += 1
    connection.execute("COMMIT")
    return kept


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE:
                _log.error("%s is too large to be salvaged", path)
                return b""
            return file.read()
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            _log.error("%s cannot be salvaged: %s", path, error)
        return b""


def _found(database: bytes, written_ahead: bytes) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Table and values of what is certainly a row of ours: its columns say whose."""
    for row in rows(database, written_ahead):
        for told in (_record, _documents, _address, _cursor):
            if found := told(row):
                yield found
                break


Told = tuple[str, tuple[object, ...]] | None


def _record(row: Row) -> Told:
    match row.values:
        case (str() as key, bytes() as blob) if row.number is None and _is_key(key):
            for table, kind in _KINDS:
                if _decodes(blob, kind):
                    return table, (key, blob)
    return None


def _documents(row: Row) -> Told:
    match row.values:
        case (str() as key, bytes(), bytes()) if row.number is not None and key.startswith("sha256:"):
            return "image_documents", row.values
    return None


def _address(row: Row) -> Told:
    match row.values:
        case (bytes() as address, str() as pod, str(), str()) if len(address) in _ADDRESS_BYTES and is_id(
            pod
        ):
            return "pod_address", row.values
    return None


def _cursor(row: Row) -> Told:
    match row.values:
        case (None, bytes() as last) if row.number in (4, 6) and len(last) in _ADDRESS_BYTES:
            return "pod_address_cursor", (row.number, last)
    return None


def _is_key(text: str) -> bool:
    return is_id(text) or is_volume_id(text) or text.startswith("sha256:")


def _decodes(blob: bytes, kind: type[object]) -> bool:
    try:
        msgspec.msgpack.decode(blob, type=kind)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return False
    return True


def check_databases(*paths: str) -> list[Finding]:
    """SQLite's own check of every page (https://www.sqlite.org/pragma.html#pragma_quick_check).

    Through a connection of its own. Blocks for as long as reading the files takes: for a thread.
    """
    return [finding for path in paths for finding in (*_damage(path), *_set_aside(path))]


def _damage(path: str) -> Iterator[Finding]:
    mend = "the next start of cribd saves what can be read, and sets the file aside"
    try:
        with contextlib.closing(sqlite3.connect(existing(path), _CHECK_PATIENCE, uri=True)) as connection:
            for (line,) in connection.execute("PRAGMA quick_check(10)"):
                if line != "ok":
                    yield Finding(_AREA, path, f"is damaged: {line}", mend)
            for noun, key, error in connection.execute("SELECT noun, id, error FROM unreadable"):
                if noun == LOST_FILE:
                    continue  # a file that was set aside, as below
                text = f"row {key} of {noun} could not be read and was set aside: {error}"
                yield Finding(_AREA, path, text, is_note=True)
    except sqlite3.Error as error:
        yield Finding(_AREA, path, f"cannot be read: {error}", mend)


def _set_aside(path: str) -> Iterator[Finding]:
    for aside in sorted(glob.glob(f"{glob.escape(path)}.broken-*")):
        if not aside.endswith(("-wal", "-shm")):
            size = os.path.getsize(aside)
            text = f"was damaged and set aside ({size} bytes): remove it when nobody needs to inspect it"
            yield Finding(_AREA, aside, text, is_note=True)
