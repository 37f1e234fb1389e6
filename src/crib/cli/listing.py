"""`crib pods` and `crib ps`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from crib.cli.each import plain_label
from crib.cli.forms import is_table
from crib.cli.list_filters import chosen_containers, chosen_pods
from crib.cli.output import Listing, age, as_dict, short_id
from crib.cli.tables import Shortening, TableColumn
from crib.cli.watching import show
from crib.client import ClientError, lookup
from crib.client import pods as client_pods
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_CREATED,
    CONTAINER_EXITED,
    CONTAINER_RUNNING,
    SANDBOX_READY,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from crib.cli.listing_options import PodsOptions, PsOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.stubs.runtime.v1.api_pb2 import Container, PodSandbox

_AT_ONCE = 16
"""Status calls in flight: enough to hide their latency, few enough to leave the runtime to others."""
_POD_COLUMNS = (
    TableColumn("POD", Shortening.NOTHING),
    TableColumn("NAMESPACE", rank=1),
    TableColumn("NAME"),
    TableColumn("STATE", Shortening.NOTHING),
    TableColumn("RUNNING", Shortening.NOTHING, rank=2),
    TableColumn("RESTARTS", Shortening.NOTHING, rank=5),
    TableColumn("IP", Shortening.NOTHING, rank=3),
    TableColumn("AGE", Shortening.NOTHING),
    TableColumn("HANDLER", rank=4),
    TableColumn("ATTEMPT", Shortening.NOTHING, wide=True),
    TableColumn("UID", wide=True),
)
_CONTAINER_COLUMNS = (
    TableColumn("CONTAINER", Shortening.NOTHING),
    TableColumn("POD", Shortening.PATH),
    TableColumn("NAME"),
    TableColumn("STATE", Shortening.NOTHING),
    TableColumn("RESTARTS", Shortening.NOTHING, rank=2),
    TableColumn("AGE", Shortening.NOTHING),
    TableColumn("IMAGE", Shortening.PATH, rank=1),
    TableColumn("POD ID", Shortening.NOTHING, wide=True),
)
_STATES = {CONTAINER_CREATED: "Created", CONTAINER_RUNNING: "Running", CONTAINER_EXITED: "Exited"}


async def _all(calls: list[Awaitable[str]]) -> list[str]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Awaitable[str]) -> str:
        async with gate:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))


async def pods(session: CliSession, options: PodsOptions) -> None:
    """Sandboxes, newest first, with addresses and how many of their containers run."""
    async with session.connect() as connection:

        async def listing() -> Listing:
            return await _pods(connection, options)

        await show(listing, options)


async def _pods(connection: Connection, options: PodsOptions) -> Listing:
    found = await chosen_pods(connection, options)
    rows: list[tuple[str, ...]] = []
    if is_table(options.output) and not options.quiet:
        rows = await _pod_rows(connection, found, _identity if options.no_trunc else short_id)
    return Listing(
        _POD_COLUMNS,
        rows,
        ids=[pod.id for pod in found],
        names=[f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in found],
        documents=[as_dict(pod) for pod in found],
    )


def _identity(text: str) -> str:
    return text


async def _pod_rows(
    connection: Connection, found: list[PodSandbox], shown: Callable[[str], str]
) -> list[tuple[str, ...]]:
    addresses = await _all([_address(connection, pod.id) for pod in found])
    own: dict[str, list[Container]] = defaultdict(list)
    for container in await lookup.containers(connection):
        own[container.pod_sandbox_id].append(container)
    latest = {pod.id: lookup.latest(own[pod.id]).values() for pod in found}
    return [
        (
            shown(pod.id),
            pod.metadata.namespace,
            pod.metadata.name,
            "Ready" if pod.state == SANDBOX_READY else "NotReady",
            _running(latest[pod.id]),
            str(sum(one.metadata.attempt for one in latest[pod.id])),
            address,
            age(pod.created_at),
            pod.runtime_handler or "-",
            str(pod.metadata.attempt),
            pod.metadata.uid,
        )
        for pod, address in zip(found, addresses, strict=True)
    ]


def _running(latest: Iterable[Container]) -> str:
    """How many run of those that should: an init container that has finished has done its work."""
    counted = [one for one in latest if one.state != CONTAINER_EXITED or not lookup.is_init(one)]
    return f"{sum(one.state == CONTAINER_RUNNING for one in counted)}/{len(counted)}"


async def _address(connection: Connection, pod_id: str) -> str:
    try:
        return (await client_pods.sandbox_status(connection, pod_id)).network.ip or "-"
    except ClientError:
        return "-"  # removed since the list was made


async def containers(session: CliSession, options: PsOptions) -> None:
    """Containers that run (or all), newest first."""
    async with session.connect() as connection:

        async def listing() -> Listing:
            return await _containers(connection, options)

        await show(listing, options)


async def _containers(connection: Connection, options: PsOptions) -> Listing:
    pods_by_id = {pod.id: pod for pod in await lookup.pods(connection)}
    found = await chosen_containers(connection, options, pods_by_id)
    rows: list[tuple[str, ...]] = []
    if is_table(options.output) and not options.quiet:
        shown = _identity if options.no_trunc else short_id
        rows = await _container_rows(connection, found, pods_by_id, shown)
    return Listing(
        _CONTAINER_COLUMNS,
        rows,
        ids=[container.id for container in found],
        names=[_name(container, pods_by_id) for container in found],
        documents=[as_dict(container) for container in found],
    )


def _name(container: Container, pods_by_id: dict[str, PodSandbox]) -> str:
    pod = pods_by_id.get(container.pod_sandbox_id)
    return plain_label(pod, container) if pod else container.id


async def _container_rows(
    connection: Connection,
    found: list[Container],
    pods_by_id: dict[str, PodSandbox],
    shown: Callable[[str], str],
) -> list[tuple[str, ...]]:
    states = await _all([_state(connection, container) for container in found])
    rows: list[tuple[str, ...]] = []
    for container, state in zip(found, states, strict=True):
        pod = pods_by_id.get(container.pod_sandbox_id)
        rows.append(
            (
                shown(container.id),
                plain_label(pod) if pod else short_id(container.pod_sandbox_id),
                container.metadata.name,
                state,
                str(container.metadata.attempt),
                age(container.created_at),
                container.image.user_specified_image or container.image.image or short_id(container.image_id),
                shown(container.pod_sandbox_id),
            )
        )
    return rows


async def _state(connection: Connection, container: Container) -> str:
    word = _STATES.get(container.state, "Unknown")
    if container.state != CONTAINER_EXITED:
        return word
    try:
        status = await client_pods.container_status(connection, container.id)
    except ClientError:
        return word  # removed since the list was made
    reason = f", {status.reason}" if status.reason not in ("", "Completed", "Error") else ""
    return f"{word} ({status.exit_code}{reason})"
