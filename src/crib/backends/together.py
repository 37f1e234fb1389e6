"""Questions of one turn of the loop, answered by one step in a thread.

A start asks about every container and every pod. Each by itself, the way to a thread and back takes ten
times as long as the look (0.6 ms for 60 µs).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from crib.host.threads import OURS, Job
from crib.tasks.keeper import HANDS

Q = TypeVar("Q")
A = TypeVar("A")


class Together(Generic[Q, A]):
    """Asks `look` about each. Only for our own files, as one that hangs holds up the others of its turn."""

    def __init__(self, what: str, look: Callable[[Q], A]) -> None:
        self._what = what
        self._look = look
        self._asked: list[tuple[Q, asyncio.Future[A]]] = []

    async def ask(self, question: Q) -> A:
        """What `look` returns or raises."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._begin)
        answer: asyncio.Future[A] = loop.create_future()
        self._asked.append((question, answer))
        return await answer

    def _begin(self) -> None:
        asked, self._asked = self._asked, []
        HANDS.part(self._what, self._answer(asked))

    async def _answer(self, asked: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            found: list[A | BaseException] = await OURS.run(
                Job(self._what), self._look_all, [question for question, _ in asked]
            )
        except BaseException as error:  # handed to all who asked
            found = [error] * len(asked)
        for (_, answer), one in zip(asked, found, strict=True):
            if answer.done():
                continue  # who asked was cancelled
            if isinstance(one, BaseException):
                answer.set_exception(one)
            else:
                answer.set_result(one)

    def _look_all(self, questions: list[Q]) -> list[A | BaseException]:
        found: list[A | BaseException] = []
        for question in questions:
            try:
                found.append(self._look(question))
            except Exception as error:  # handed to who asked
                found.append(error)
        return found
