"""`crib pods` and `crib ps`."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from crib.cli.forms import is_table
from crib.cli.output import Listing, age, as_dict, short_id
from crib.cli.tables import Shortening, TableColumn
from crib.client import ClientError, lookup
from crib.client import pods as client_pods
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_CREATED,
    CONTAINER_EXITED,
    CONTAINER_RUNNING,
    SANDBOX_READY,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from crib.cli.options import PodsOptions, PsOptions
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
    TableColumn("IP", Shortening.NOTHING, rank=3),
    TableColumn("AGE", Shortening.NOTHING),
    TableColumn("HANDLER", rank=4),
    TableColumn("ATTEMPT", Shortening.NOTHING, wide=True),
    TableColumn("UID", wide=True),
)
_CONTAINER_COLUMNS = (
    TableColumn("CONTAINER", Shortening.NOTHING),
    TableColumn("POD"),
    TableColumn("NAME"),
    TableColumn("STATE"),
    TableColumn("AGE", Shortening.NOTHING),
    TableColumn("IMAGE", Shortening.IMAGE, rank=1),
    TableColumn("ATTEMPT", Shortening.NOTHING, wide=True),
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
        found = [
            pod for pod in await lookup.pods(connection) if options.namespace in ("", pod.metadata.namespace)
        ]
        rows: list[tuple[str, ...]] = []
        if is_table(options.output) and not options.quiet:
            rows = await _pod_rows(connection, found)
    Listing(
        _POD_COLUMNS,
        rows,
        ids=[pod.id for pod in found],
        names=[f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in found],
        documents=[as_dict(pod) for pod in found],
    ).show(options.output, quiet=options.quiet)


async def _pod_rows(connection: Connection, found: list[PodSandbox]) -> list[tuple[str, ...]]:
    containers = await lookup.containers(connection)
    addresses = await _all([_address(connection, pod.id) for pod in found])
    total = Counter(container.pod_sandbox_id for container in containers)
    running = Counter(c.pod_sandbox_id for c in containers if c.state == CONTAINER_RUNNING)
    return [
        (
            short_id(pod.id),
            pod.metadata.namespace,
            pod.metadata.name,
            "Ready" if pod.state == SANDBOX_READY else "NotReady",
            f"{running[pod.id]}/{total[pod.id]}",
            address,
            age(pod.created_at),
            pod.runtime_handler or "-",
            str(pod.metadata.attempt),
            pod.metadata.uid,
        )
        for pod, address in zip(found, addresses, strict=True)
    ]


async def _address(connection: Connection, pod_id: str) -> str:
    try:
        return (await client_pods.sandbox_status(connection, pod_id)).network.ip or "-"
    except ClientError:
        return "-"  # removed since the list was made


async def containers(session: CliSession, options: PsOptions) -> None:
    """Containers that run (or all), newest first."""
    async with session.connect() as connection:
        pods_by_id = {pod.id: pod for pod in await lookup.pods(connection)}
        pod_id = lookup.pick_pod(list(pods_by_id.values()), options.pod).id if options.pod else ""
        found = [
            container
            for container in reversed(await lookup.containers(connection, pod_id))
            if options.every or container.state == CONTAINER_RUNNING
        ]
        rows: list[tuple[str, ...]] = []
        if is_table(options.output) and not options.quiet:
            rows = await _container_rows(connection, found, pods_by_id)
    ids = [container.id for container in found]
    documents = [as_dict(container) for container in found]
    Listing(_CONTAINER_COLUMNS, rows, ids=ids, names=ids, documents=documents).show(
        options.output, quiet=options.quiet
    )


async def _container_rows(
    connection: Connection, found: list[Container], pods_by_id: dict[str, PodSandbox]
) -> list[tuple[str, ...]]:
    states = await _all([_state(connection, container) for container in found])
    rows: list[tuple[str, ...]] = []
    for container, state in zip(found, states, strict=True):
        pod = pods_by_id.get(container.pod_sandbox_id)
        rows.append(
            (
                short_id(container.id),
                f"{pod.metadata.namespace}/{pod.metadata.name}"
                if pod
                else short_id(container.pod_sandbox_id),
                container.metadata.name,
                state,
                age(container.created_at),
                container.image.user_specified_image or container.image.image or short_id(container.image_id),
                str(container.metadata.attempt),
                short_id(container.pod_sandbox_id),
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
