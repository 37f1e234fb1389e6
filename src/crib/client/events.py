"""What happens on the node, of crib and of any other runtime, and waiting for a container's end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from crib.client import pods
from crib.client.connection import Connection
from crib.client.errors import ClientError, NotOffered, TimedOut, Unavailable
from crib.stubs.node.v1.node_pb2 import Event, EventsCut, EventsRequest, EventsResponse
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_CREATED_EVENT,
    CONTAINER_DELETED_EVENT,
    CONTAINER_EXITED,
    CONTAINER_STARTED_EVENT,
    CONTAINER_STOPPED_EVENT,
    ContainerEventResponse,
    ContainerStatus,
    GetEventsRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Seen = TypeVar("Seen")
AGAIN = 0.5
"""Seconds between two tries to go on with a stream that was cut off."""
POLL = 1.0
FIRST_POLL = 0.01
"""Seconds between looks at a container while no event says that it moved: events may be off or lost, and
those from before the stream was open never come. The first looks follow each other fast, as many containers
that are waited for end at once."""


def subscribe(connection: Connection) -> AsyncIterator[ContainerEventResponse]:
    """Every event from now on, until the caller leaves or the runtime ends the stream."""
    return connection.stream(connection.runtime.GetContainerEvents, GetEventsRequest())


def kept(connection: Connection, request: EventsRequest) -> AsyncIterator[EventsResponse]:
    """crib's own events as its Node service has them: one call. NotOffered from another runtime.

    Go on after the `cursor` of the last answer. Where `cut` is set, events before this answer's are missing.
    """
    return connection.stream(connection.node.Events, request)


async def follow(
    connection: Connection, request: EventsRequest, patience: float | None = None
) -> AsyncIterator[Event | EventsCut]:
    """The events that are asked for, and those to come, each once, also across restarts of the daemon.

    An EventsCut stands where events are missing, as they are no longer kept. `patience`: seconds for which
    the daemon may be away; Unavailable after that. Without it, Unavailable before the first answer only.
    """
    asked = EventsRequest(follow=True)
    asked.MergeFrom(request)
    away_since = None
    while True:
        try:
            async with Connection(connection.endpoint, connection.timeout) as crib:
                async for answer in kept(crib, asked):
                    away_since = None
                    if answer.HasField("cut"):
                        yield answer.cut
                    for event in answer.events:
                        yield event
                    if answer.cursor:
                        asked.after, asked.since = answer.cursor, 0
        except Unavailable:
            if patience is None and not asked.after:
                raise
            away_since = away_since or time.monotonic()
            if patience is not None and time.monotonic() - away_since > patience:
                raise
        await asyncio.sleep(AGAIN)


_ACTIONS = {
    CONTAINER_CREATED_EVENT: "created",
    CONTAINER_STARTED_EVENT: "started",
    CONTAINER_STOPPED_EVENT: "stopped",
    CONTAINER_DELETED_EVENT: "deleted",
}


async def of_any_runtime(connection: Connection) -> AsyncIterator[Event]:
    """The CRI's events from now on, in the form of crib's; they have no numbers, and are of containers only.

    Pods are told as containers with the pod's id.
    """
    async for found in subscribe(connection):
        yield _as_event(found)


def _as_event(found: ContainerEventResponse) -> Event:
    metadata = found.pod_sandbox_status.metadata
    is_pod = found.container_id == found.pod_sandbox_status.id
    event = Event(
        at=found.created_at,
        kind="pod" if is_pod else "container",
        action=_ACTIONS.get(found.container_event_type, "changed"),
        id=found.container_id,
        pod_sandbox_id=found.pod_sandbox_status.id,
        pod=f"{metadata.namespace}/{metadata.name}" if metadata.name else "",
    )
    for status in found.containers_statuses:
        if status.id == found.container_id:
            event.name = status.metadata.name
            if event.action == "stopped":
                event.exit_code = status.exit_code
                event.message = status.reason
    return event


def has(request: EventsRequest, event: Event) -> bool:
    """Whether the event is one of those that are asked for; crib itself sees to that."""
    namespace, _, name = event.pod.partition("/")
    pod, container = request.pod, request.container
    return (
        (not request.kinds or event.kind in request.kinds)
        and (not request.namespace or request.namespace == namespace)
        and (not pod or pod in (event.pod, name) or event.pod_sandbox_id.startswith(pod))
        and (not container or container == event.name or event.id.startswith(container))
    )


async def wait_exited(
    connection: Connection, container_id: str, timeout: float | None = None
) -> ContainerStatus:
    """Wait until a container has exited and give its status.

    `timeout` is in seconds; TimedOut when it passes. NotFound when the container is removed meanwhile. Works
    with runtimes that send no events, by looking again and again.
    """

    async def look() -> ContainerStatus | None:
        status = await pods.container_status(connection, container_id)
        return status if status.state == CONTAINER_EXITED else None

    late = f"container {container_id[:12]} still runs after {timeout or 0:g} s"
    return await wait_until(connection, look, Patience(timeout, late, container_id))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait (seconds; None: for ever), the words when it was too long, and whose events matter."""

    timeout: float | None
    late: str
    id: str = ""
    """Of a container or a pod sandbox; empty for any."""


async def wait_until(
    connection: Connection, look: Callable[[], Awaitable[Seen | None]], patience: Patience
) -> Seen:
    """Look at each event, and now and then without one, until `look` gives something. ClientError."""
    woken = asyncio.Event()
    outcome: Seen | ClientError
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(_wake(connection, patience.id, woken))
        try:
            async with asyncio.timeout(patience.timeout):
                outcome = await _look_until(look, woken)
        except TimeoutError:
            outcome = TimedOut(patience.late)
        except ClientError as error:
            outcome = error
        watcher.cancel()
    if isinstance(outcome, ClientError):
        raise outcome
    return outcome


async def _look_until(look: Callable[[], Awaitable[Seen | None]], woken: asyncio.Event) -> Seen:
    pause = FIRST_POLL
    while True:
        if (seen := await look()) is not None:
            return seen
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(woken.wait(), pause)
        woken.clear()
        pause = min(2 * pause, POLL)


async def _wake(connection: Connection, identifier: str, woken: asyncio.Event) -> None:
    # a runtime without events, or one that ends the stream: the looks each second go on
    with contextlib.suppress(ClientError):
        async for event in subscribe(connection):
            if identifier in ("", event.container_id):
                woken.set()


async def resumed(
    connection: Connection, request: EventsRequest, patience: float
) -> AsyncIterator[Event | EventsCut]:
    """As `follow`, from any runtime. One without crib's events has none from before now, and while it is away
    events are lost: an EventsCut stands there.
    """
    try:
        async for item in follow(connection, request, patience):
            yield item
    except NotOffered:
        pass
    else:
        return
    away_since = None
    while True:
        try:
            async for event in of_any_runtime(connection):
                away_since = None
                if has(request, event):
                    yield event
        except Unavailable:
            if away_since is not None and time.monotonic() - away_since > patience:
                raise
        if away_since is None:
            away_since = time.monotonic()
            yield EventsCut()
        await asyncio.sleep(AGAIN)
