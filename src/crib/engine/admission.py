"""Admission: so many verbs that make something at once; the others wait, and take turns by caller and by pod.

Pods come in crowds, when a node starts or a job begins. Each verb that makes something takes the event loop
and the CPUs for a while, so that many of them at once make none faster, and everything else slow. Here they
wait until a place is free. Verbs that stop or remove take a place without waiting, and so come before them:
they make room. What reads passes by. Pulls have bounds of their own.

Turns go round the callers, and for each caller round its pods: neither a caller with a thousand requests nor
a pod with fifty containers holds up the others. Pods that have begun come before new ones, or all of a crowd
would be half made for a long time, and then be ready, and be stopped, in the same moment. A verb that keeps
its place too long gives it back and goes on without one: what hangs costs a place for HOLD_LIMIT only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from crib.engine.joins import Joins
from crib.model.errors import Exhausted, Unavailable
from crib.tasks.calls import current_caller
from crib.tasks.keeper import TaskKeeper

QUEUE_LIMIT = 512
"""Verbs that wait at most: pods of the largest node, all at once."""
RESERVED = 1
"""Places that only verbs have which make something."""
HOLD_LIMIT = 5.0
"""Seconds after which a verb gives its place back; most take less than one."""
NEW_POD_WAITS = 7
"""Turns of pods that have begun for which a new pod waits at most."""

PLACES_PER_CPU = 4
MIN_PLACES, MAX_PLACES = 4, 16
"""However many CPUs there are: one loop serves them all."""

R = TypeVar("R")
Kind: TypeAlias = Literal["making", "ending", "overdue"]


def usual_places() -> int:
    """How many verbs at once keep this machine busy; more would only make each of them slower."""
    return min(max(MIN_PLACES, PLACES_PER_CPU * (os.cpu_count() or 1)), MAX_PLACES)


@dataclass(frozen=True, slots=True)
class Load:
    """How full it is at this moment."""

    places: int
    making: int
    """Places that verbs hold which make something."""
    ending: int
    """Places that verbs hold which stop or remove something; these wait for none."""
    overdue: int
    """Verbs that gave their place back and have not ended."""
    queued: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose turn a verb waits for, and what times the wait."""

    pod: str
    is_new: bool
    """Whether it makes the pod itself."""
    queued: Callable[[], AbstractContextManager[object]]
    """A stage of the pod's timeline; asked for only if the verb has to wait."""


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One verb that waits."""

    caller: str
    pod: str
    is_new: bool
    turn: asyncio.Future[None]


class Line:
    """Tickets of one caller; the pod whose turn is longest ago is next, and of its tickets the first."""

    def __init__(self) -> None:
        self._pods: OrderedDict[str, deque[Ticket]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._pods.values()))

    def put(self, ticket: Ticket) -> None:
        self._pods.setdefault(ticket.pod, deque()).append(ticket)

    def pop(self) -> Ticket:
        pod = next(iter(self._pods))
        self._pods.move_to_end(pod)
        ticket = self._pods[pod][0]
        self.remove(ticket)
        return ticket

    def last(self) -> Ticket:
        """Whose turn comes last."""
        return max(reversed(self._pods.values()), key=len)[-1]

    def remove(self, ticket: Ticket) -> None:
        """Nothing happens where it is not, or no longer, in the line."""
        tickets = self._pods.get(ticket.pod, deque())
        if ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self._pods[ticket.pod]


class CallerWait:
    """What one caller waits for: pods that have begun come before new ones, but not always."""

    def __init__(self) -> None:
        self.new, self.begun = Line(), Line()
        self._passed_by = 0
        """Turns that new pods have been waiting for."""

    def __len__(self) -> int:
        return len(self.new) + len(self.begun)

    def put(self, ticket: Ticket) -> None:
        (self.new if ticket.is_new else self.begun).put(ticket)

    def pop(self) -> Ticket:
        if self.new and (not self.begun or self._passed_by >= NEW_POD_WAITS):
            self._passed_by = 0
            return self.new.pop()
        self._passed_by += bool(self.new)
        return self.begun.pop()

    def last(self) -> Ticket:
        """Whose turn comes last."""
        return (self.new or self.begun).last()

    def remove(self, ticket: Ticket) -> None:
        (self.new if ticket.is_new else self.begun).remove(ticket)


class TurnQueue:
    """Who is next: the caller whose turn is longest ago."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, CallerWait] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._callers.values()))

    def length(self, caller: str) -> int:
        """Tickets of one caller."""
        return len(self._callers.get(caller, ()))

    def longest(self) -> str:
        """The caller with the most tickets; there must be one."""
        return max(self._callers, key=self.length)

    def put(self, ticket: Ticket) -> None:
        self._callers.setdefault(ticket.caller, CallerWait()).put(ticket)

    def pop(self) -> Ticket:
        """The next; there must be one."""
        caller, waiting = next(iter(self._callers.items()))
        self._callers.move_to_end(caller)
        ticket = waiting.pop()
        self._tidy(caller)
        return ticket

    def last(self, caller: str) -> Ticket:
        """Of this caller's tickets the one whose turn comes last."""
        return self._callers[caller].last()

    def remove(self, ticket: Ticket) -> None:
        """Nothing happens where it is not, or no longer, in the queue."""
        if ticket.caller in self._callers:
            self._callers[ticket.caller].remove(ticket)
            self._tidy(ticket.caller)

    def _tidy(self, caller: str) -> None:
        if not self._callers[caller]:
            del self._callers[caller]


class Admission:
    """The places, and who waits for one."""

    def __init__(self, places: int, limit: int = QUEUE_LIMIT, hold: float = HOLD_LIMIT) -> None:
        """`limit`: verbs that may wait; `hold`: seconds that one may keep its place."""
        self._places = places
        self._limit = limit
        self._hold = hold
        self._count: dict[Kind, int] = {"making": 0, "ending": 0, "overdue": 0}
        self._queue = TurnQueue()
        self._is_closed = False

    @property
    def load(self) -> Load:
        return Load(self._places, **self._count, queued=len(self._queue))

    def resize(self, places: int) -> None:
        """Other places from now on; those that are held beyond them are kept."""
        self._places = places
        self._call_in()

    @contextlib.asynccontextmanager
    async def making(self, claim: Claim) -> AsyncIterator[None]:
        """Wait for a place, and hold it within the block. Exhausted when too many wait already."""
        if self._has_room():
            self._count["making"] += 1
        else:
            with claim.queued():
                await self._turn(claim)
        with self._held("making"):
            yield

    async def ending(self, work: Callable[[], Awaitable[R]]) -> R:
        """The outcome of `work`, which waits for nothing: while it goes on others find one place less."""
        self._count["ending"] += 1
        with self._held("ending"):
            return await work()

    def close(self) -> None:
        """The daemon stops: refuse all that wait, or would have to."""
        self._is_closed = True
        while self._queue:
            ticket = self._queue.pop()
            if not ticket.turn.done():
                ticket.turn.set_exception(_stopping())

    @contextlib.contextmanager
    def _held(self, kind: Kind) -> Iterator[None]:
        """A place of this kind, which goes to the next after the block, or when it was kept too long."""
        held = kind

        def overdue() -> None:
            nonlocal held
            self._count[held] -= 1
            held = "overdue"
            self._count[held] += 1
            self._call_in()

        timer = asyncio.get_running_loop().call_later(self._hold, overdue)
        try:
            yield
        finally:
            timer.cancel()
            self._count[held] -= 1
            self._call_in()

    def _has_room(self) -> bool:
        """Verbs that end something come first, but do not stop the others for good."""
        making, ending = self._count["making"], self._count["ending"]
        return making + ending < self._places or making < RESERVED

    async def _turn(self, claim: Claim) -> None:
        """Wait until a place has been taken for this verb."""
        ticket = Ticket(
            current_caller().agent, claim.pod, claim.is_new, asyncio.get_running_loop().create_future()
        )
        self._put(ticket)
        try:
            await ticket.turn
        except asyncio.CancelledError:
            self._queue.remove(ticket)
            if not ticket.turn.cancelled() and ticket.turn.exception() is None:
                # The turn came in the same moment.
                self._count["making"] -= 1
                self._call_in()
            raise

    def _call_in(self) -> None:
        """As many as there is room for now."""
        while self._queue and self._has_room():
            ticket = self._queue.pop()
            if not ticket.turn.done():  # or it is about to leave the queue
                self._count["making"] += 1
                ticket.turn.set_result(None)

    def _put(self, ticket: Ticket) -> None:
        """In a full queue a caller with few tickets takes the place of the one with the most."""
        if self._is_closed:
            raise _stopping()
        if len(self._queue) >= self._limit:
            error = Exhausted(
                f"{self._limit} requests to run, create or start are already waiting for "
                f"one of {self._places} places: try again later"
            )
            longest = self._queue.longest()
            if self._queue.length(longest) <= self._queue.length(ticket.caller) + 1:
                raise error
            refused = self._queue.last(longest)
            self._queue.remove(refused)
            if not refused.turn.done():
                refused.turn.set_exception(error)
        self._queue.put(ticket)


def _stopping() -> Unavailable:
    return Unavailable("crib is stopping, and this had not started")


class AdmittedJoins(Joins[R]):
    """Joins whose work waits for a place first.

    Who joins it needs no place. When the last caller leaves before it has begun it is ended: nothing has been
    done then.
    """

    def __init__(self, keeper: TaskKeeper, verb: str, admission: Admission) -> None:
        super().__init__(keeper, verb)
        self._admission = admission
        self._waiting: dict[Hashable, object] = {}
        """By key: what distinguishes work that has not begun from other work of that key."""

    async def admitted(
        self,
        key: Hashable,
        subject: object,
        claim: Claim,
        start: Callable[[], Coroutine[Any, Any, R]],
        of: str = "",
    ) -> R:
        """As `join`; `start` is called once there is a place."""
        try:
            return await self.join(key, subject, lambda: self._begin_in_turn(key, claim, start), of)
        except asyncio.CancelledError:
            if key in self._waiting:
                self.end_abandoned(key)
            raise

    async def _begin_in_turn(
        self, key: Hashable, claim: Claim, start: Callable[[], Coroutine[Any, Any, R]]
    ) -> R:
        mark = self._waiting[key] = object()
        try:
            async with self._admission.making(claim):
                self._begun(key, mark)
                return await start()
        finally:
            self._begun(key, mark)

    def _begun(self, key: Hashable, mark: object) -> None:
        if self._waiting.get(key) is mark:
            del self._waiting[key]
