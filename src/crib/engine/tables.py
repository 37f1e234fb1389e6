"""Records in memory: read from here, and written to `Records`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from crib.model.errors import InvalidRequest

MIN_PREFIX = 4
"""Shortest beginning of an id that is taken for the id."""


class Identified(Protocol):
    """What every record has."""

    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=Identified)


class Table(Generic[R]):
    """One noun's records by id and by name. Frozen records: reading needs no copies."""

    def __init__(
        self,
        name_of: Callable[[R], Hashable | None],
        put: Callable[[R], None],
        delete: Callable[[R], None],
        group_of: Callable[[R], str] = lambda row: "",
    ) -> None:
        self._name_of = name_of
        self._group_of = group_of
        self._put = put
        self._delete = delete
        self._rows: dict[str, R] = {}
        self._names: dict[Hashable, str] = {}
        self._groups: dict[str, dict[str, None]] = {}

    def fill(self, rows: Iterable[R]) -> None:
        """Take over what was read at start; nothing is written."""
        for row in rows:
            self._show(row)

    def put(self, row: R) -> R:
        """Write the row to the records, and show it to readers."""
        self._put(row)
        self._show(row)
        return row

    def _show(self, row: R) -> None:
        known = self._rows.get(row.id)
        if known is None:
            self._groups.setdefault(self._group_of(row), {})[row.id] = None
        name = self._name_of(row)
        if known is None or name != self._name_of(known):
            if known is not None:
                self._unname(known)
            if name is not None:  # the name of one that has none is free
                self._names[name] = row.id
        self._rows[row.id] = row

    def _unname(self, row: R) -> None:
        name = self._name_of(row)
        if self._names.get(name) == row.id:
            del self._names[name]

    def remove(self, row: R) -> None:
        self._delete(row)
        self._rows.pop(row.id, None)
        self._unname(row)
        group = self._group_of(row)
        if members := self._groups.get(group):
            members.pop(row.id, None)
            if not members:
                del self._groups[group]

    def get(self, key: str) -> R | None:
        return self._rows.get(key)

    def named(self, name: Hashable) -> R | None:
        key = self._names.get(name)
        return None if key is None else self._rows.get(key)

    def members(self, group: str) -> tuple[R, ...]:
        """The rows of one group, oldest first."""
        return tuple(self._rows[key] for key in self._groups.get(group, ()))

    def find(self, text: str) -> R | None:
        """By id, or by a beginning of it that fits one row only; InvalidRequest when it fits several."""
        row = self._rows.get(text)
        if row is not None or len(text) < MIN_PREFIX:
            return row
        found = [row for key, row in self._rows.items() if key.startswith(text)]
        if len(found) > 1:
            raise InvalidRequest(f"{text} matches {len(found)} ids: give more of it")
        return found[0] if found else None

    def __iter__(self) -> Iterator[R]:
        return iter(tuple(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)
