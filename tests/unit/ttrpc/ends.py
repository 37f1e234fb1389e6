"""Both ends of a connection for ttrpc, over a pair of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from crib.tasks.groups import Beside
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.server import MOST_RUNNING, Services, TtrpcServer

BOUND = 60.0
"""Seconds for anything."""


class WatchedCarrier(SocketCarrier):
    """Tells when it is read no further, and when it is over."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = asyncio.Event()
        self.over = asyncio.Event()

    def pause(self) -> None:
        super().pause()
        self.paused.set()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.over.set()


async def carrier_of(end: socket.socket) -> WatchedCarrier:
    end.setblocking(False)
    _, carrier = await asyncio.get_running_loop().create_connection(WatchedCarrier, sock=end)
    return carrier


@contextlib.asynccontextmanager
async def carriers() -> AsyncIterator[tuple[WatchedCarrier, WatchedCarrier]]:
    async with asyncio.timeout(BOUND):
        both = [await carrier_of(end) for end in socket.socketpair()]
        try:
            yield both[0], both[1]
        finally:
            for carrier in both:
                carrier.abort("the test is over")
                await carrier.over.wait()


@contextlib.asynccontextmanager
async def served(
    services: Services, most_running: int = MOST_RUNNING
) -> AsyncIterator[tuple[TtrpcClient, TtrpcServer]]:
    async with carriers() as (client_end, server_end), Beside() as beside:
        yield TtrpcClient(client_end), TtrpcServer(server_end, services, beside.start, most_running)
