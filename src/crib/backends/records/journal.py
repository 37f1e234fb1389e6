"""The `Journal` port over the file of this boot: written with the rows of pods, it follows them to disk."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Generic, TypeVar

import msgspec

from crib.backends.records.boot_file import BootRows, Change
from crib.model.events import EventKind, NodeEvent
from crib.ports.clocks import Clock
from crib.ports.journal import Label, Shelf

_log = logging.getLogger(__name__)
T = TypeVar("T")

FORGET_AT_ONCE = 500
"""Events that one call forgets: each is a row to be deleted in both files."""
_PUT_EVENT = "REPLACE INTO events VALUES (?, ?, ?)"
_DELETE_EVENT = "DELETE FROM events WHERE number = ?"
_READ = "SELECT number, at, record FROM events WHERE number > ? ORDER BY number LIMIT ?"
_BEFORE = "SELECT max(number) FROM events WHERE at < ?"
_SPAN = "SELECT min(number), max(number) FROM events"
_FIRST_SINCE = "SELECT number FROM events WHERE at >= ? ORDER BY number LIMIT 1"
_FIRST_OF_LATEST = "SELECT number FROM events ORDER BY number DESC LIMIT 1 OFFSET ?"
_OLDEST = "SELECT number FROM events WHERE number < ? ORDER BY number LIMIT ?"
_PUT_KEPT = "REPLACE INTO kept VALUES (?, ?, ?, ?)"
_DELETE_KEPT = "DELETE FROM kept WHERE id = ?"
_GET_KEPT = "SELECT record FROM kept WHERE id = ?"
_LABELS = "SELECT id, title, at FROM kept WHERE id > ? AND id < ? ORDER BY at DESC, id"
_ERRORS = (msgspec.MsgspecError, ValueError, TypeError)

_encode = msgspec.msgpack.Encoder().encode
_decode_event = msgspec.msgpack.Decoder(NodeEvent).decode


class SqliteJournal:
    """All on the loop's thread. Reading a file that somebody else has locked finds nothing for the moment."""

    def __init__(self, rows: BootRows, clock: Clock) -> None:
        self._rows = rows
        # By the clock, in milliseconds, so that no number comes again where the last ones did not reach the
        # disk before a power cut, or the directory was emptied.
        self._next = max(self.span()[1] + 1, clock() // 1_000_000)

    def append(self, event: NodeEvent) -> int:
        number = self._next
        self._next += 1
        self._rows.owe([Change(("events", number), _PUT_EVENT, (number, event.at, _encode(event)))])
        return number

    def read(self, after: int, limit: int) -> Sequence[NodeEvent]:
        return [_event(*row) for row in _rows(self._rows, _READ, after, limit)]

    def before(self, at: int) -> int:
        return _number(self._rows, _BEFORE, at)

    def span(self) -> tuple[int, int]:
        for lowest, highest in _rows(self._rows, _SPAN):
            return lowest or 0, highest or 0
        return 0, 0

    def forget(self, at: int, most: int) -> int:
        lowest, highest = self.span()
        since = _number(self._rows, _FIRST_SINCE, at) or highest
        first = min(highest, max(since, _number(self._rows, _FIRST_OF_LATEST, most - 1)))
        if first <= lowest:
            return 0
        found = [number for (number,) in _rows(self._rows, _OLDEST, first, FORGET_AT_ONCE)]
        self._rows.owe([Change(("events", number), _DELETE_EVENT, (number,)) for number in found])
        return len(found)

    def shelf(self, name: str, kind: type[T]) -> Shelf[T]:
        return SqliteShelf(self._rows, name, kind)


class SqliteShelf(Generic[T]):
    """The documents of one kind, in the table that all have in common."""

    def __init__(self, rows: BootRows, name: str, kind: type[T]) -> None:
        self._rows = rows
        self._prefix = f"{name}/"
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def put(self, label: Label, document: T) -> None:
        key = self._prefix + label.subject
        values = (key, label.title, label.at, _encode(document))
        self._rows.owe([Change(("kept", key), _PUT_KEPT, values)])

    def get(self, subject: str) -> T | None:
        key = self._prefix + subject
        for (record,) in _rows(self._rows, _GET_KEPT, key):
            try:
                return self._decode(record)
            except _ERRORS as error:
                _log.warning("%s cannot be read: %s", key, error)
        return None

    def labels(self) -> Sequence[Label]:
        beyond = self._prefix[:-1] + chr(ord("/") + 1)
        start = len(self._prefix)
        found = _rows(self._rows, _LABELS, self._prefix, beyond)
        return [Label(key[start:], title, at) for key, title, at in found]

    def drop(self, subjects: Iterable[str]) -> None:
        keys = [self._prefix + subject for subject in subjects]
        self._rows.owe([Change(("kept", key), _DELETE_KEPT, (key,)) for key in keys])


def _rows(rows: BootRows, query: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]  # as SQLite has it
    try:
        return rows.connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        _log.warning("reading the journal: %s", error)
        return []


def _number(rows: BootRows, query: str, value: int) -> int:
    for (number,) in _rows(rows, query, value):
        return number or 0
    return 0


def _event(number: int, at: int, record: bytes) -> NodeEvent:
    with suppress(*_ERRORS):
        return replace(_decode_event(record), number=number)
    return NodeEvent(EventKind.NODE, "unreadable", at, text="another crib wrote this event", number=number)
