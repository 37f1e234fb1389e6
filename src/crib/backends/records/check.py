"""Whether the databases are whole, and what was set aside of them; nothing is changed by looking."""

from __future__ import annotations

import contextlib
import glob
import os
import sqlite3
from collections.abc import Iterator

from crib.backends.records.salvage import LOST_FILE
from crib.backends.records.sqlite_files import existing
from crib.model.finding import Finding

BUSY_TIMEOUT = 10.0
_AREA = "records"


def check_databases(*paths: str) -> list[Finding]:
    """SQLite's own check of every page (https://www.sqlite.org/pragma.html#pragma_quick_check).

    Through a connection of its own. Blocks for as long as reading the files takes: for a thread.
    """
    return [finding for path in paths for finding in (*_damage(path), *_set_aside(path))]


def _damage(path: str) -> Iterator[Finding]:
    mend = "the next start of cribd saves what can be read, and sets the file aside"
    try:
        with contextlib.closing(sqlite3.connect(existing(path), BUSY_TIMEOUT, uri=True)) as connection:
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
