"""What keeps the daemon small while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from crib.host import libc
from crib.host.threads import OURS
from crib.streaming.server import StreamServer

WARM_AFTER = 1.0
"""Seconds at most from the first pod to imports that the first stream would wait for."""
TRIM_EVERY = 60.0
"""Seconds between two times at which unused memory goes back to the system: that takes some milliseconds."""


async def warm_and_small(streams: StreamServer, has_pods: Callable[[], bool]) -> None:
    """The last imports, once there are pods to stream from; and from then on memory is given back.

    The allocator keeps what was freed until it is told: 10 MiB of a start, and all of a flood of calls.
    """
    is_warm, looks = False, 0
    while True:
        await asyncio.sleep(TRIM_EVERY if is_warm else WARM_AFTER)
        if not is_warm and has_pods():
            is_warm = True
            await OURS.run("importing the protocols of streams", streams.warm)
        if is_warm or looks % (TRIM_EVERY // WARM_AFTER) == 0:
            await OURS.run("giving memory back", libc.malloc_trim)
        looks += 1
