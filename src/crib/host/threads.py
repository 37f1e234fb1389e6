"""Work that blocks, off the event loop, and never left alone with what it is doing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_to_end(work: Callable[..., T], *args: object, stop: Callable[[], None] = lambda: None) -> T:
    """Run `work` in a thread. A cancelled caller calls `stop` and then waits: a thread cannot be stopped.

    Where `asyncio.to_thread` would return at once, the clean-up that follows would run beside the work.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([running])
        raise


def on_own_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that ends with it, and wait here; for work that changes its thread for good."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=body, name="own", daemon=True)
    thread.start()
    thread.join()
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()  # or the traceback and this frame keep each other alive
    return results[0]


async def on_own_thread_async(work: Callable[[], T]) -> T:
    """`on_own_thread` without holding up the loop; when cancelled it still waits for the thread to end."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def body() -> None:
        tell: Callable[[], None]
        try:
            tell = functools.partial(outcome.set_result, work())
        except BaseException as error:  # handed to the caller, whatever it is
            tell = functools.partial(outcome.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is waiting
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=body, name="own", daemon=True).start()
    cancelled: asyncio.CancelledError | None = None
    while not outcome.done():
        try:
            await asyncio.shield(outcome)
        except asyncio.CancelledError as error:
            # The thread cannot be stopped, and must not act after its caller has cleaned up.
            cancelled = error
        except BaseException:
            break
    if cancelled is not None:
        outcome.exception()  # retrieved, or the loop would log it as lost
        raise cancelled
    return outcome.result()
