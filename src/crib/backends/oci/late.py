"""Clearing away what work has left that came to its end when nobody waited for it any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

_log = logging.getLogger(__name__)
_tasks: set[asyncio.Task[object]] = set()


def clear_away(what: str, work: Coroutine[object, object, object]) -> None:
    """Do it behind everybody's back; a failure is logged, as there is nobody to tell."""
    task = asyncio.ensure_future(_logged(what, work))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _logged(what: str, work: Coroutine[object, object, object]) -> None:
    try:
        await work
    except Exception as error:
        _log.warning("%s, which came too late: %s", what, error)
