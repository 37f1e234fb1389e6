"""What is remembered of the node beyond its records: events in order, and documents about what may be gone.

Nothing here decides what happens. A write neither waits nor fails: it is kept with the next record, in one
commit with it, and at the latest when the loop turns. From then on it survives a kill of the daemon; it
outlives a boot as the records of pods do, but for the last moment. Reads are of what has been written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from crib.model.events import NodeEvent

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Label:
    """What a document is about, without the document."""

    subject: str
    """Its id; there is one document of a kind for each."""
    title: str
    """A name that people know it by: NAMESPACE/NAME of a pod, with /CONTAINER."""
    at: int
    """Nanoseconds since the epoch; what is kept longest goes by this."""


class Shelf(Protocol, Generic[T]):
    """Documents of one kind: frozen dataclasses. Whoever puts them there bounds their number."""

    def put(self, label: Label, document: T) -> None:
        """Keep it, in the place of an earlier one of that subject."""
        ...

    def get(self, subject: str) -> T | None:
        """The document; None where there is none, or it was written by another crib and cannot be read."""
        ...

    def labels(self) -> Sequence[Label]:
        """Of all that are kept, the latest first."""
        ...

    def drop(self, subjects: Iterable[str]) -> None:
        """Forget these; those that are not there are fine."""
        ...


class Journal(Protocol):
    """The node's events by number, and shelves beside them."""

    def append(self, event: NodeEvent) -> int:
        """Keep the event and return its number.

        Numbers go up and are never used twice, also after a power cut that took the last events. They are
        without gaps from one start of the daemon to the next.
        """
        ...

    def read(self, after: int, limit: int) -> Sequence[NodeEvent]:
        """The first events with a higher number, at most `limit`, in order and with their numbers."""
        ...

    def before(self, at: int) -> int:
        """The number of the last event before that time (nanoseconds since the epoch); 0 for none."""
        ...

    def span(self) -> tuple[int, int]:
        """The lowest and the highest number that is kept; zeros where none is."""
        ...

    def forget(self, at: int, most: int) -> int:
        """Drop events from before `at`, and those beyond the latest `most`; returns how many.

        The latest one always stays, and a call drops a bounded number: call it again later.
        """
        ...

    def shelf(self, name: str, kind: type[T]) -> Shelf[T]:
        """The shelf with that name, for documents of that type. Each name has one type."""
        ...
