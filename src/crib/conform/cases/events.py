"""GetContainerEvents."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from crib.client import events
from crib.client.errors import ClientError, NotOffered
from crib.conform.case import Level, case
from crib.conform.expect import Mismatch, NotApplicable, equal, true
from crib.conform.trial import PATIENCE, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_KEP = "KEP-3386: kubelet evented PLEG"
_CREATED, _STARTED, _STOPPED, _DELETED = (
    pb.CONTAINER_CREATED_EVENT,
    pb.CONTAINER_STARTED_EVENT,
    pb.CONTAINER_STOPPED_EVENT,
    pb.CONTAINER_DELETED_EVENT,
)


class EventListener:
    """The events since the stream is open."""

    def __init__(self) -> None:
        self.seen: list[pb.ContainerEventResponse] = []
        self._came = asyncio.Condition()

    async def follow(self, trial: Trial) -> None:
        """Until it is cancelled."""
        async for event in events.subscribe(trial.connection):
            async with self._came:
                self.seen.append(event)
                self._came.notify_all()

    def of(self, subject: str) -> list[pb.ContainerEventResponse]:
        """Those of one container or sandbox, in their order."""
        return [event for event in self.seen if event.container_id == subject]

    async def until(self, subject: str, kind: int) -> pb.ContainerEventResponse:
        """The first one of a kind; Mismatch when none comes."""

        def found() -> list[pb.ContainerEventResponse]:
            return [event for event in self.of(subject) if event.container_event_type == kind]

        try:
            async with asyncio.timeout(PATIENCE), self._came:
                await self._came.wait_for(found)
        except TimeoutError:
            names = [pb.ContainerEventType.Name(event.container_event_type) for event in self.of(subject)]
            wanted = pb.ContainerEventType.Name(kind)  # type: ignore[arg-type]  # a number of this enum
            raise Mismatch(f"events within {PATIENCE:g} s", wanted, names) from None
        return found()[0]


@contextlib.asynccontextmanager
async def _listening(trial: Trial) -> AsyncIterator[EventListener]:
    """A listener that has seen an event and misses none after it; NotApplicable without the call."""
    listener = EventListener()
    following = asyncio.ensure_future(listener.follow(trial))
    try:
        for _ in range(20):
            await trial.create()  # nobody tells when a stream is open: until an event comes, it may not be
            await asyncio.wait([following], timeout=0.25)
            if following.done():
                following.result()
                raise Mismatch("GetContainerEvents", "a stream that lasts", "its end")
            if listener.seen:
                break
        yield listener
    except NotOffered as error:
        raise NotApplicable(error.message) from error
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError, ClientError):
            await following


@case(
    "GetContainerEvents",
    Level.OPTIONAL,
    _KEP,
    "ContainerEventResponse.container_id,container_event_type,created_at",
)
async def tells_a_containers_life_in_order(trial: Trial) -> None:
    """Creation, start, end and removal of a container are told once each, in their order."""
    async with _listening(trial) as listener:
        container = (await trial.ended(trial.config("true"))).id
        await listener.until(container, _STOPPED)
        await trial.remove(container)
        await listener.until(container, _DELETED)
        found = [event.container_event_type for event in listener.of(container)]
        equal("its events", found, [_CREATED, _STARTED, _STOPPED, _DELETED])
        times = [event.created_at for event in listener.of(container)]
        true("created_at of them", times == sorted(times) and times[0] > 0, "in their order", times)


@case(
    "GetContainerEvents",
    Level.OPTIONAL,
    _KEP,
    "ContainerEventResponse.pod_sandbox_status,containers_statuses",
)
async def has_the_statuses_of_the_moment(trial: Trial) -> None:
    """An event has the sandbox's status and those of its containers; the end has the exit code."""
    async with _listening(trial) as listener:
        pod = await trial.pod()
        container = (await trial.ended(trial.config("sh", "-c", "exit 6"), pod)).id
        event = await listener.until(container, _STOPPED)
        equal("pod_sandbox_status: id", event.pod_sandbox_status.id, pod.id)
        equal("pod_sandbox_status: metadata", event.pod_sandbox_status.metadata, pod.config.metadata)
        found = {one.id: (one.state, one.exit_code) for one in event.containers_statuses}
        equal("containers_statuses: state and exit code", found.get(container), (pb.CONTAINER_EXITED, 6))


@case("GetContainerEvents", Level.OPTIONAL, _KEP, "ContainerEventResponse.container_id")
async def tells_a_sandboxes_life(trial: Trial) -> None:
    """A sandbox's life is told under its own id."""
    async with _listening(trial) as listener:
        pod = await trial.pod()
        await listener.until(pod.id, _STARTED)
        await trial.stop_pod(pod.id)
        await listener.until(pod.id, _STOPPED)
        await trial.remove_pod(pod.id)
        await listener.until(pod.id, _DELETED)


@case("GetContainerEvents", Level.OPTIONAL, _KEP, "ContainerEventResponse.container_id")
async def tells_every_listener(trial: Trial) -> None:
    """Two clients get the same events, and one that leaves takes nothing from the other."""
    async with _listening(trial) as one:
        async with _listening(trial) as other:
            first = (await trial.ended(trial.config("true"))).id
            await one.until(first, _STOPPED)
            await other.until(first, _STOPPED)
        second = (await trial.ended(trial.config("true"))).id
        await one.until(second, _STOPPED)
