"""Every background task has this keeper: none is lost, none fails unnoticed, and all can be listed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from crib.model.errors import Aborted, Unavailable
from crib.model.tallies import Tally
from crib.tasks.calls import request_id
from crib.tasks.lanes import verb_context
from crib.tasks.spans import close_stage, leave_spans, open_stage

T = TypeVar("T")
_log = logging.getLogger(__name__)


UNUSUAL_AGE = 30.0
"""Seconds from which on a stage is shown with its age."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenStage:
    """A stage that a piece of work is in."""

    name: str
    began: float
    """On the monotonic clock."""


class Work(Generic[T]):
    """A piece of work under way, as a person may look at it and give it up."""

    def __init__(self, name: str, of: str, request: str) -> None:
        self.name = name
        self.of = of
        """Id of the pod sandbox or container that it is about; empty for other work."""
        self.request = request
        """Id of the call that began it; empty where none did."""
        self.began = time.monotonic()
        self.callers = 0
        """How many wait for it now."""
        self.stages: list[OpenStage] = []
        """The innermost last."""
        self.task: asyncio.Task[T]
        self.given_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the reason, once it has been abandoned."""

    @property
    def where(self) -> str:
        """Its open stages as a person reads them, the innermost last; with its age, if that is unusual."""
        if not self.stages:
            return ""
        names = " > ".join(stage.name for stage in self.stages)
        age = time.monotonic() - self.stages[-1].began
        return f"{names} ({age:.0f} s)" if age >= UNUSUAL_AGE else names

    async def wait(self) -> T:
        """Its result. Who is cancelled ends his waiting only. Aborted as soon as it is abandoned."""
        ends: tuple[asyncio.Future[Any], ...] = (self.task, self.given_up)
        with self.awaited():
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self.given_up.done():
            raise Aborted(f"{self.name}: {self.given_up.result()}")
        if self.task.cancelled():
            raise Unavailable(f"{self.name} was ended before it was done: try again")
        return self.task.result()

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """While this lasts, one more waits for it."""
        self.callers += 1
        try:
            yield
        finally:
            self.callers -= 1

    def abandon(self, reason: str) -> None:
        """Tell those who wait, at once, and have the work end as soon as it can."""
        if not self.given_up.done():
            self.given_up.set_result(reason)
        self.task.cancel()


_CURRENT: ContextVar[Work[Any] | None] = ContextVar("crib_work", default=None)


def current_work() -> Work[Any] | None:
    """What the current task belongs to."""
    return _CURRENT.get()


class at_stage:  # noqa: N801  # used as a function would be
    """While this lasts, the current work is shown to be there; `subject` is what the stage is about.

    No generator: a pod's life has some twenty stages.
    """

    __slots__ = ("_name", "_span", "_stage", "_subject", "_work")

    def __init__(self, name: str, subject: str = "") -> None:
        self._name, self._subject = name, subject

    def __enter__(self) -> None:
        self._work = _CURRENT.get()
        if self._work is not None:
            self._stage = OpenStage(f"{self._name} {self._subject}".rstrip(), time.monotonic())
            self._work.stages.append(self._stage)
            self._span = open_stage(self._name, self._subject)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._work is not None:
            self._work.stages.remove(self._stage)
            if self._span is not None:
                close_stage(self._span, error)


def _launched(work: Work[T], body: Coroutine[Any, Any, T], context: Context) -> Work[T]:
    context.run(_CURRENT.set, work)
    work.task = _task(work.name, work.of, body, context)
    return work


def _task(
    name: str, of: str, body: Coroutine[Any, Any, T], context: Context | None = None
) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(body, name=f"{name} {of}".rstrip(), context=context)


class TaskKeeper:
    """Starts tasks, holds them until they are done, and ends them together."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], Work[Any]] = {}
        self._services: dict[asyncio.Task[Any], Work[Any]] = {}
        self._parts: set[asyncio.Task[Any]] = set()
        self.joined = Tally()
        """Requests that waited for work which ran already, by verb (`engine.joins`)."""

    @property
    def sizes(self) -> dict[str, int]:
        """Tasks by kind."""
        return {"work": len(self._tasks), "service": len(self._services), "part": len(self._parts)}

    def works(self) -> list[Work[Any]]:
        """What is under way, the oldest first; of what lasts as long as the daemon, what has an object."""
        services = (work for work in self._services.values() if work.of)
        return sorted((*self._tasks.values(), *services), key=lambda work: work.began)

    def serve(self, name: str, work: Coroutine[Any, Any, None], of: str = "") -> asyncio.Task[None]:
        """Run work that may last as long as the daemon; it is cancelled last: verbs that end need it."""
        context = copy_context()
        leave_spans(context)
        served = _launched(Work(name, of, request_id()), work, context)
        self._services[served.task] = served
        served.task.add_done_callback(self._service_done)
        return served.task

    def _service_done(self, task: asyncio.Task[Any]) -> None:
        self._services.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s ended: %s", task.get_name(), error, exc_info=error)

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in a task of its own. The caller may await it; if nobody does, a failure is logged."""
        return self.begin(name, work).task

    def begin(self, name: str, work: Coroutine[Any, Any, T], of: str = "") -> Work[T]:
        """The same, to be waited for with `Work.wait`; `of`: the id of its pod sandbox or container."""
        begun = _launched(Work(name, of, request_id()), work, verb_context())
        self._tasks[begun.task] = begun
        begun.task.add_done_callback(self._done)
        return begun

    def part(self, name: str, work: Coroutine[Any, Any, T], of: str = "") -> asyncio.Task[T]:
        """Run a part of the current task's work, in its lane; it may outlast its caller.

        The work that it is a part of lists it, and it ends with the services.
        """
        part = _task(name, of, work)
        self._parts.add(part)
        part.add_done_callback(self._done)
        return part

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        self._parts.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever awaits the task gets the exception too; this line is for work that nobody awaits.
            _log.debug("%s failed: %s", task.get_name(), error)

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for tasks to end by themselves, then cancel the rest."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace)
        self.cancel()
        if rest := {*self._tasks, *self._services, *self._parts}:
            await asyncio.wait(rest, timeout=grace)

    def cancel(self) -> None:
        """End all of them as soon as they can, and wait for none."""
        for task in (*self._tasks, *self._services, *self._parts):
            task.cancel()


HANDS = TaskKeeper()
"""Of backends: they are handed no keeper, as they are no threads (`crib.host.threads`)."""
