"""Copying tables between two SQLite files, whatever is in them: their own schema says how."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_OWN = ("origin",)
"""Tables that say something of the one file that they are in."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """One table, as needed to copy its rows."""

    name: str
    sql: str
    key: str
    columns: tuple[str, ...]

    @property
    def read(self) -> str:
        return f"SELECT {', '.join(self.columns)} FROM {self.name}"  # noqa: S608  # names of our schema

    @property
    def read_one(self) -> str:
        return f"{self.read} WHERE {self.key} = ?"

    @property
    def write(self) -> str:
        marks = ", ".join("?" * len(self.columns))
        return f"REPLACE INTO {self.name} ({', '.join(self.columns)}) VALUES ({marks})"  # noqa: S608

    @property
    def delete(self) -> str:
        return f"DELETE FROM {self.name} WHERE {self.key} = ?"  # noqa: S608


def shapes(connection: sqlite3.Connection) -> dict[str, TableShape]:
    """All tables that are to be the same in both files."""
    listed = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    return {name: _shape(connection, name, sql) for name, sql in listed if name not in _OWN}


def _shape(connection: sqlite3.Connection, name: str, sql: str) -> TableShape:
    info = connection.execute(f"PRAGMA table_info({name})").fetchall()
    columns = [column[1] for column in info]
    keys = [column[1] for column in info if column[5]]
    if len(keys) == 1:
        return TableShape(name, sql, keys[0], tuple(columns))
    return TableShape(name, sql, "rowid", ("rowid", *columns))


def copy_all(source: sqlite3.Connection, target: sqlite3.Connection) -> dict[str, TableShape]:
    """Make the target's tables those of the source, and return them. The caller has begun transactions."""
    wanted, found = shapes(source), shapes(target)
    for name in found.keys() - wanted.keys():
        target.execute(f"DROP TABLE {name}")
    for name, shape in wanted.items():
        if name not in found:
            target.execute(shape.sql)
        there = dict(_by_key(target, shape))
        here = dict(_by_key(source, shape))
        target.executemany(shape.delete, [(key,) for key in there.keys() - here.keys()])
        target.executemany(shape.write, [row for key, row in here.items() if there.get(key) != row])
    return wanted


def take_all(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """`copy_all`, in one transaction of each. One that fails leaves none open in the source."""
    source.execute("BEGIN")
    try:
        target.execute("BEGIN IMMEDIATE")
        copy_all(source, target)
        target.execute("COMMIT")
    finally:
        source.execute("ROLLBACK")


def _by_key(connection: sqlite3.Connection, shape: TableShape) -> Iterator[tuple[object, tuple[object, ...]]]:
    position = shape.columns.index(shape.key)
    for row in connection.execute(shape.read):
        yield row[position], row


def copy_rows(
    source: sqlite3.Connection, target: sqlite3.Connection, rows: Iterable[tuple[TableShape, object]]
) -> None:
    """Only these rows, each told by its table and key; the same for the transactions."""
    for shape, key in rows:
        row = source.execute(shape.read_one, (key,)).fetchone()
        if row is None:
            target.execute(shape.delete, (key,))
        else:
            target.execute(shape.write, row)
