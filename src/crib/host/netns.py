"""Work inside another network namespace, on a thread that lives for that work alone.

A thread that has entered a namespace must never serve anything else, so it is neither an executor's
nor the loop's. Starting one costs some 0.1 ms.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from crib.host import libc

T = TypeVar("T")


def enter_network_namespace(descriptor: int) -> None:
    """Move the calling thread into the namespace; only for threads that end with their work."""
    libc.setns(descriptor, libc.CLONE_NEWNET)


def open_namespace(path: str) -> int:
    """A descriptor of the namespace pinned at `path`; the caller closes it."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)


async def wait_on_own_thread(work: Callable[[], T], *, name: str) -> T:
    """What `work` returns or raises, run on a new thread that then ends.

    When the waiting task is cancelled the work still goes on to its end: a half-made interface is
    worse than one that nobody waits for.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if outcome.cancelled():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]  # None only where T admits it

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:  # carried over to the waiting task
            error = raised
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:
            pass  # the loop has closed: nobody waits any more

    threading.Thread(target=run, name=name, daemon=True).start()
    return await outcome
