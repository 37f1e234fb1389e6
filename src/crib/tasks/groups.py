"""Tasks that end with the block that began them: nobody else has to hold or end them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Group(asyncio.TaskGroup):
    """asyncio's own, with names: the block waits for all tasks, and the first that fails ends the others."""

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in a task of its own."""
        return self.create_task(work, name=name)


class Beside:
    """Tasks that run beside a block. Leaving the block ends those that still run, and waits for their end.

    A failure is ignored unless the block asks for it.
    """

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in a task of its own."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.append(task)
        return task

    async def __aenter__(self) -> Beside:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if rest := [task for task in self._tasks if not task.done()]:
            for task in rest:
                task.cancel()
            await asyncio.wait(rest)
        for task in self._tasks:
            _ = task.cancelled() or task.exception()  # asked for, or the loop would log it as lost


async def all_of(name: str, works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in their order; the first failure is raised once the others have been ended."""
    async with Beside() as beside:
        return await asyncio.gather(*(beside.start(name, work) for work in works))
