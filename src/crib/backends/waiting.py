"""Work in threads for callers that know model errors only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from crib.host.threads import FOREIGN, OURS, Job, Overdue
from crib.model.errors import Unavailable

T = TypeVar("T")


async def ours(job: Job | str, work: Callable[..., T], *args: object) -> T:
    """In a thread of `OURS`. Unavailable, naming the job, where that raises Overdue."""
    try:
        return await OURS.run(job, work, *args)
    except Overdue as error:
        raise Unavailable(str(error)) from error


async def foreign(job: Job | str, work: Callable[..., T], *args: object) -> T:
    """The same with `FOREIGN`."""
    try:
        return await FOREIGN.run(job, work, *args)
    except Overdue as error:
        raise Unavailable(str(error)) from error
