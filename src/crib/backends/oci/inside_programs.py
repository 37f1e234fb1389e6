"""The runtime's program, asked about a pod's own kernel: a few at a time, as each is a process."""

from __future__ import annotations

import asyncio

from crib.host.processes import Completed, RunOptions, run
from crib.model.ids import ContainerId

TOGETHER = 4
"""That run at a time: one takes 25 ms, and some megabytes."""


class InsidePrograms:
    """For one purpose, which holds up no other one."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(TOGETHER)

    async def run(self, container: ContainerId, argv: tuple[str, ...], limit: float) -> Completed:
        """See `host.processes.run`. `limit` is in seconds, once there is a place."""
        async with self._places:
            return await run(argv, timeout=limit, options=RunOptions(owner=container))
