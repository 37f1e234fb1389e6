"""The node's events: kept in the journal for an hour, and read from there by whoever follows them.

A reader has a cursor, the number of the last event that it has seen. Nothing is held for it. It may be as
slow as it likes, go away and come back, also after a restart of the daemon. If the events after its cursor
are no longer kept, the answer says so, and where it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from crib.engine.tables import MIN_PREFIX
from crib.engine.transitions import container_event, container_events, sandbox_events
from crib.model.container import ContainerRecord
from crib.model.errors import Exhausted
from crib.model.events import EventKind, NodeEvent
from crib.model.facts import Readiness
from crib.model.sandbox import SandboxRecord
from crib.ports.clocks import Clock
from crib.ports.journal import Journal

KEPT_SECONDS = 3600
"""For which an event is kept."""
KEPT_EVENTS = 50_000
"""At most, however young they are: some 15 MiB."""
FORGET_PAUSE = 10.0
"""Seconds between two looks for events that are too old."""
BATCH = 100
"""Events that a reader gets at a time."""
BATCHES_BACK = 50
"""At most read for one question about the past."""
LOOK_AGAIN = 1.0
"""Seconds after which a reader looks for events that could not be written at once."""
NEWS_OF_CURSOR = 30.0
"""Seconds after which a reader is told how far it has got, although none of the events was for it."""
READER_LIMIT = 64
"""Readers that follow at a time."""
TEXT_LIMIT = 1000
"""Characters that are kept of an event's text."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a reader asks for; empty fields ask for all."""

    after: int = 0
    """The cursor: those with a higher number. 0: from the oldest that is kept."""
    since: int = 0
    """Nanoseconds since the epoch, in place of a cursor."""
    follow: bool = False
    """Go on with those to come."""
    kinds: frozenset[EventKind] = frozenset()
    namespace: str = ""
    pod: str = ""
    """NAMESPACE/NAME, NAME, an id or a beginning of it."""
    container: str = ""
    """Its name, its id or a beginning of that."""

    def has(self, event: NodeEvent) -> bool:
        """Whether the event is asked for."""
        return (
            (not self.kinds or event.kind in self.kinds)
            and (not self.namespace or event.pod.partition("/")[0] == self.namespace)
            and (not self.pod or _is_named(self.pod, event.pod_id, event.pod))
            and (not self.container or (event.kind is EventKind.CONTAINER and self._is_container(event)))
        )

    def _is_container(self, event: NodeEvent) -> bool:
        return _is_named(self.container, event.subject, event.name)


def _is_named(text: str, identifier: str, name: str) -> bool:
    if len(text) >= MIN_PREFIX and identifier.startswith(text):
        return True
    return text in (name, name.partition("/")[2])


@dataclass(frozen=True, slots=True)
class Cut:
    """Events between the reader's cursor and what is kept are gone."""

    after: int
    """The cursor."""
    resumes_at: int
    """Number of the oldest event that is kept: the next one that the reader gets."""
    at: int
    """When that one happened."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a reader gets at a time."""

    events: Sequence[NodeEvent] = ()
    cursor: int = 0
    """Go on after this one."""
    cut: Cut | None = None
    """Before these events."""


@dataclass(slots=True)
class _News:
    """Wakes the readers."""

    is_over: bool = False
    event: asyncio.Event = field(default_factory=asyncio.Event)

    def come(self) -> None:
        self.event.set()
        self.event = asyncio.Event()


class History:
    """Tells events, and reads them."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._news = _News()
        self._is_news_due = False
        self._readers = 0
        self._network = ""

    def tell(self, event: NodeEvent) -> None:
        """Keep the event; what its readers get of it is what is kept."""
        self._journal.append(event)
        if not self._is_news_due:
            self._is_news_due = True
            asyncio.get_running_loop().call_soon(self._bring_news)  # behind the write, which is due then too

    def _bring_news(self) -> None:
        self._is_news_due = False
        self._news.come()

    def happened(self, kind: EventKind, action: str, subject: str, text: str = "", name: str = "") -> None:
        """Tell what is of no pod."""
        about = text[:TEXT_LIMIT]
        self.tell(NodeEvent(kind, action, self._clock(), subject=subject, name=name, text=about))

    def sandbox_moves(self, before: SandboxRecord | None, after: SandboxRecord | None) -> None:
        """A row is about to be written, or removed: what happened is kept in the same commit."""
        for event in sandbox_events(before, after, self._clock):
            self.tell(event)

    def container_moves(
        self, before: ContainerRecord | None, after: ContainerRecord | None, sandbox: SandboxRecord | None
    ) -> None:
        """The same for a container's row."""
        for event in container_events(before, after, sandbox, self._clock):
            self.tell(event)

    def container_happens(
        self, action: str, row: ContainerRecord, sandbox: SandboxRecord | None, text: str
    ) -> None:
        """Tell what its row does not say."""
        self.tell(container_event(action, row, sandbox, self._clock(), text))

    def may_have_told(self, action: str, row: ContainerRecord) -> bool:
        """Whether this was told of the container; also if that can no longer be known.

        Its making is told in one commit with its row: what is kept from then on is complete.
        """
        cursor, was_made = self._journal.before(row.created_at), False
        for _batch in range(BATCHES_BACK):
            events = self._journal.read(cursor, BATCH)
            if not events:
                return not was_made
            own = [event.action for event in events if event.subject == row.id]
            was_made |= "created" in own
            if action in own:
                return True
            cursor = events[-1].number
        return True

    def network_is(self, readiness: Readiness) -> None:
        """Somebody asked for the network's state: a change is an event."""
        state = "ready" if readiness.ready else "not ready"
        if self._network and state != self._network:
            self.happened(EventKind.NETWORK, state, "network", readiness.message)
        self._network = state

    async def read(self, wanted: EventFilter) -> AsyncIterator[Batch]:
        """The events that are asked for, a batch at a time; without end when they are followed.

        Exhausted when there are too many readers.
        """
        with self._counted():
            cursor, told_at = self._start(wanted), time.monotonic()
            while not (wanted.follow and self._news.is_over):
                news = self._news.event
                batch = self._next(cursor, wanted)
                cursor = batch.cursor
                if batch.events or batch.cut or time.monotonic() - told_at > NEWS_OF_CURSOR:
                    told_at = time.monotonic()
                    yield batch
                if cursor >= self._journal.span()[1]:
                    if not wanted.follow:
                        break
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_AGAIN):
                            await news.wait()
                await asyncio.sleep(0)  # a long way to those that are asked for must not keep others waiting
            yield Batch(cursor=cursor)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._readers >= READER_LIMIT:
            raise Exhausted(f"there are {READER_LIMIT} readers of events already")
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    def _start(self, wanted: EventFilter) -> int:
        return wanted.after or (self._journal.before(wanted.since) if wanted.since else 0)

    def _next(self, cursor: int, wanted: EventFilter) -> Batch:
        lowest, highest = self._journal.span()
        # A cursor from beyond the end is of events that were lost: the journal was removed.
        is_cut = bool(cursor) and not lowest - 1 <= cursor <= highest
        found = self._journal.read(0 if is_cut else cursor, BATCH)
        cut = Cut(cursor, found[0].number, found[0].at) if is_cut and found else None
        reached = found[-1].number if found else cursor
        return Batch(tuple(event for event in found if wanted.has(event)), reached, cut)

    async def forget_for_ever(self) -> None:
        """For the daemon's life."""
        while True:
            oldest = self._clock() - KEPT_SECONDS * 1_000_000_000
            if not self._journal.forget(oldest, KEPT_EVENTS):
                await asyncio.sleep(FORGET_PAUSE)
            else:
                await asyncio.sleep(LOOK_AGAIN)

    def close(self) -> None:
        """Readers get what there is, and no more is followed."""
        self._news.is_over = True
        self._news.come()
