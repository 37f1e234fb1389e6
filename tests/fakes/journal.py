"""The port `Journal` in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from crib.model.events import NodeEvent
from crib.ports.clocks import Clock
from crib.ports.journal import Label, Shelf

T = TypeVar("T")


class MemoryJournal:
    """It lives as long as this object: give it to a second engine to play a restart, after `restarted`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: dict[int, NodeEvent] = {}
        self._shelves: dict[str, MemoryShelf[Any]] = {}
        self._next = 0
        self.restarted()

    def restarted(self) -> None:
        self._next = max(self.span()[1] + 1, self._clock() // 1_000_000)

    def append(self, event: NodeEvent) -> int:
        number = self._next
        self._next += 1
        self._events[number] = replace(event, number=number)
        return number

    def read(self, after: int, limit: int) -> Sequence[NodeEvent]:
        return [event for number, event in self._events.items() if number > after][:limit]

    def before(self, at: int) -> int:
        return max((number for number, event in self._events.items() if event.at < at), default=0)

    def span(self) -> tuple[int, int]:
        return min(self._events, default=0), max(self._events, default=0)

    def forget(self, at: int, most: int) -> int:
        since = next((number for number, event in self._events.items() if event.at >= at), self.span()[1])
        first = max(since, *list(self._events)[-most:][:1], 0)
        gone = [number for number in self._events if number < first]
        for number in gone:
            del self._events[number]
        return len(gone)

    def shelf(self, name: str, kind: type[T]) -> Shelf[T]:
        return self._shelves.setdefault(name, MemoryShelf[Any]())


class MemoryShelf(Generic[T]):
    """One kind's documents."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Label, T]] = {}

    def put(self, label: Label, document: T) -> None:
        self._kept[label.subject] = label, document

    def get(self, subject: str) -> T | None:
        found = self._kept.get(subject)
        return None if found is None else found[1]

    def labels(self) -> Sequence[Label]:
        labels = [label for label, _ in self._kept.values()]
        return sorted(labels, key=lambda label: (-label.at, label.subject))

    def drop(self, subjects: Iterable[str]) -> None:
        for subject in subjects:
            self._kept.pop(subject, None)
