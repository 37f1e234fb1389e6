"""Every background task has this keeper: none is lost, none fails unheard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from crib.engine.lanes import verb_context

T = TypeVar("T")
log = logging.getLogger(__name__)


class TaskKeeper:
    """Starts tasks, holds them until they are done, and ends them together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._services: set[asyncio.Task[Any]] = set()

    def serve(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work that may last as long as the daemon; it is cancelled last: verbs that end need it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._services.add(task)
        task.add_done_callback(self._service_done)
        return task

    def _service_done(self, task: asyncio.Task[Any]) -> None:
        self._services.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s ended: %s", task.get_name(), error, exc_info=error)

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in a task of its own. The caller may await it; if nobody does, a failure is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name, context=verb_context())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever awaits the task gets the exception too; this line is for work that nobody awaits.
            log.debug("%s failed: %s", task.get_name(), error)

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for tasks to end by themselves, then cancel the rest."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace)
        for task in (*self._tasks, *self._services):
            task.cancel()
        if rest := self._tasks | self._services:
            await asyncio.wait(rest, timeout=grace)
