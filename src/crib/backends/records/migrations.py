"""Records of an earlier crib, brought to this one's schema; a copy of what they were is kept for a way back.

The number goes up when an earlier crib could not read the rows, or would take them for something else: it
then refuses the file. A field more, with a default, and a table more need no new number: fields are read by
their names.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping

from crib.model.errors import Broken

SCHEMA_VERSION = 1
STEPS: Mapping[int, Callable[[sqlite3.Connection], None]] = {}
"""From the schema with this number to the next, for each of the files: their tables show which one it is."""


class SchemaTooNew(Broken):
    """The file was written by a later crib."""


def bring_up(connection: sqlite3.Connection, path: str) -> int:
    """The schema that the file has then; 0: it is new. All steps are one transaction.

    SchemaTooNew; sqlite3.Error, OSError: the file is as it was.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(_way_back(path, version))
    if 0 < version < SCHEMA_VERSION:
        keep_copy(connection, copy_path(path, version))
        connection.execute("BEGIN IMMEDIATE")
        try:
            for number in range(version, SCHEMA_VERSION):
                STEPS[number](connection)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return SCHEMA_VERSION
    return version


def copy_path(path: str, version: int) -> str:
    """Where a file is kept as it was with that schema."""
    return f"{path}.schema-{version}"


def keep_copy(connection: sqlite3.Connection, copy: str) -> None:
    """Write the whole file to `copy`, for root only, over an earlier copy; it is on disk at the end."""
    fresh = f"{copy}.new"
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        connection.execute("VACUUM INTO ?", (fresh,))  # into a file that is there, if it is empty
        os.fsync(fd)
        os.rename(fresh, copy)
    except BaseException:
        os.unlink(fresh)  # a full disk has no room for half a copy either
        raise
    finally:
        os.close(fd)
    directory = os.open(os.path.dirname(copy), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _way_back(path: str, version: int) -> str:
    text = f"{path} has schema {version}, of a later crib, and this one knows up to {SCHEMA_VERSION}: install"
    copies = (copy_path(path, number) for number in range(SCHEMA_VERSION, 0, -1))
    copy = next(filter(os.path.exists, copies), "")
    return f"{text} that one" + (f", or put back {copy}, which is from before it" if copy else "")
