"""Container events, and waiting for a container's end with them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crib.client import pods
from crib.client.errors import ClientError, TimedOut
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_EXITED,
    ContainerEventResponse,
    ContainerStatus,
    GetEventsRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crib.client.connection import Connection

POLL = 1.0
FIRST_POLL = 0.01
"""Seconds between looks at a container while no event says that it moved: events may be off or lost, and
those from before the stream was open never come. The first looks follow each other fast, as many containers
that are waited for end at once."""


def subscribe(connection: Connection) -> AsyncIterator[ContainerEventResponse]:
    """Every event from now on, until the caller leaves or the runtime ends the stream."""
    return connection.stream(connection.runtime.GetContainerEvents, GetEventsRequest())


async def wait_exited(
    connection: Connection, container_id: str, timeout: float | None = None
) -> ContainerStatus:
    """Wait until a container has exited and give its status.

    `timeout` is in seconds; TimedOut when it passes. NotFound when the container is removed meanwhile. Works
    with runtimes that send no events, by looking again and again.
    """
    woken = asyncio.Event()
    outcome: ContainerStatus | ClientError
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(_wake(connection, container_id, woken))
        try:
            async with asyncio.timeout(timeout):
                outcome = await _look_until_exited(connection, container_id, woken)
        except TimeoutError:
            outcome = TimedOut(f"container {container_id[:12]} still runs after {timeout:g} s")
        except ClientError as error:
            outcome = error
        watcher.cancel()
    if isinstance(outcome, ClientError):
        raise outcome
    return outcome


async def _look_until_exited(
    connection: Connection, container_id: str, woken: asyncio.Event
) -> ContainerStatus:
    pause = FIRST_POLL
    while True:
        status = await pods.container_status(connection, container_id)
        if status.state == CONTAINER_EXITED:
            return status
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(woken.wait(), pause)
        woken.clear()
        pause = min(2 * pause, POLL)


async def _wake(connection: Connection, container_id: str, woken: asyncio.Event) -> None:
    # a runtime without events, or one that ends the stream: the looks each second go on
    with contextlib.suppress(ClientError):
        async for event in subscribe(connection):
            if event.container_id == container_id:
                woken.set()
