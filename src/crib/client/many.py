"""Questions for each of many pods or containers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from crib.client.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

_Found = TypeVar("_Found")
STATUS_CALLS = 32
"""Questions that are asked at the same time."""


async def those_there(questions: Iterable[Awaitable[_Found]]) -> list[_Found]:
    """The answers, in their order; what was listed may be removed before it is asked for."""
    room = asyncio.Semaphore(STATUS_CALLS)

    async def ask(question: Awaitable[_Found]) -> list[_Found]:
        async with room:
            try:
                return [await question]
            except NotFound:
                return []

    return [found for answer in await asyncio.gather(*map(ask, questions)) for found in answer]
