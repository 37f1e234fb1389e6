"""Work that blocks, off the event loop, and never left alone with what it is doing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_to_end(work: Callable[..., T], *args: object) -> T:
    """Run `work` in a thread. A cancelled caller first waits for it: a thread cannot be stopped.

    Where `asyncio.to_thread` would return at once, the clean-up that follows would run beside the work.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
