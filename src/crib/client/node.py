"""crib's own Node service: check, wipe and measure the node, list work, give up on it, explain OCI specs.

Every call raises NotOffered if the runtime has no Node service. Without a daemon, `cribd --check` and
`cribd --wipe` do the same work and write the same messages as lines of JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.stubs.node.v1.node_pb2 import (
    AbandonRequest,
    CheckNodeRequest,
    ContainerEnd,
    DiskUsageRequest,
    DiskUsageResponse,
    DumpSection,
    ExplainContainerRequest,
    ExplainContainerResponse,
    ExplainEndRequest,
    Finding,
    InfoRequest,
    InspectDaemonRequest,
    ListTimelinesRequest,
    ListWorkRequest,
    LogRule,
    SetLogLevelRequest,
    TimelineRequest,
    TimelineResponse,
    Wiped,
    WipeRequest,
    Work,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from crib.client.connection import Connection
    from crib.stubs.runtime.v1.api_pb2 import ContainerConfig, PodSandboxConfig

CHECK_TIMEOUT = 4 * 3600.0
"""Seconds that one check may take: it reads every layer of the node."""
WIPE_TIMEOUT = 3600.0
"""Seconds that one wipe may take."""
WIPE_KINDS = ("pods", "containers", "network", "volumes", "images", "layers")
"""What a wipe can remove."""
MEASURE_TIMEOUT = 600.0
"""Seconds that measuring the disk may take: it looks at every file of writable layers."""


def check(connection: Connection, *, repair: bool = False, quick: bool = False) -> AsyncIterator[Finding]:
    """What is wrong with the node, or worth reporting.

    `repair` repairs what it can. `quick` only checks that layers exist, without reading them.
    """
    request = CheckNodeRequest(repair=repair, quick=quick)
    return connection.stream(connection.node.CheckNode, request, CHECK_TIMEOUT)


def wipe(
    connection: Connection, kinds: Sequence[str], *, dry_run: bool = False, force: bool = False
) -> AsyncIterator[Wiped]:
    """Remove everything of these kinds (WIPE_KINDS) and report each thing; with `dry_run` only report.

    WrongState while containers run, unless `force` kills them. What could not be removed is reported with
    its problem.
    """
    request = WipeRequest(kinds=kinds, dry_run=dry_run, force=force)
    return connection.stream(connection.node.Wipe, request, WIPE_TIMEOUT)


def is_left(found: Finding) -> bool:
    """Whether it is wrong and was not repaired."""
    return not (found.note or found.mended)


async def timeline(connection: Connection, pod: str) -> TimelineResponse:
    """The stages of one pod, by NAME, NAMESPACE/NAME or the beginning of an id; NotFound."""
    return await connection.call(connection.node.Timeline, TimelineRequest(pod=pod))


def timelines(connection: Connection) -> AsyncIterator[TimelineResponse]:
    """Of all pods that are remembered, the youngest first."""
    return connection.stream(connection.node.ListTimelines, ListTimelinesRequest())


async def under_way(connection: Connection) -> list[Work]:
    """Verbs in progress, each with its stage, the oldest first; then what threads wait for."""
    reply = await connection.call(connection.node.ListWork, ListWorkRequest())
    return list(reply.work)


async def abandon(connection: Connection, identifier: str, reason: str = "") -> list[str]:
    """Give up on a pod sandbox with its containers, or on a container. Returns the verbs that this ended.

    It is shown as NOT_READY or UNKNOWN, its name is free, and it is removed in the background. NotFound
    if neither a sandbox nor a container has that id.
    """
    request = AbandonRequest(id=identifier, reason=reason)
    reply = await connection.call(connection.node.Abandon, request)
    return list(reply.abandoned)


async def explain_container(connection: Connection, container_id: str) -> ExplainContainerResponse:
    """The spec of an existing container, by its id or the beginning of it."""
    request = ExplainContainerRequest(container_id=container_id)
    return await connection.call(connection.node.ExplainContainer, request)


async def explain_plan(
    connection: Connection, sandbox: PodSandboxConfig, config: ContainerConfig, handler: str = ""
) -> ExplainContainerResponse:
    """The spec that RunPodSandbox and CreateContainer would make from these. Makes nothing.

    NotFound if the image is not on the node.
    """
    request = ExplainContainerRequest(sandbox_config=sandbox, config=config, runtime_handler=handler)
    return await connection.call(connection.node.ExplainContainer, request)


async def disk_usage(connection: Connection) -> DiskUsageResponse:
    """What takes how much of the disk: layers, what containers have written, logs, records."""
    return await connection.call(connection.node.DiskUsage, DiskUsageRequest(), MEASURE_TIMEOUT)


async def log_rules(connection: Connection) -> list[LogRule]:
    """What is logged at another level than the configured one now."""
    return list((await connection.call(connection.node.Info, InfoRequest())).log_rules)


async def set_log_level(connection: Connection, request: SetLogLevelRequest) -> list[LogRule]:
    """Follow one more rule for a while, or none any more (`reset`); the rules that are in force then."""
    return list((await connection.call(connection.node.SetLogLevel, request)).rules)


async def inspect_daemon(connection: Connection) -> list[DumpSection]:
    """What the daemon is at, by subject, as lines for a person."""
    return list((await connection.call(connection.node.InspectDaemon, InspectDaemonRequest())).sections)


async def ends(connection: Connection, target: str, container: str = "") -> list[ContainerEnd]:
    """Why the containers of a pod, or one of them, have ended; those that have not come first.

    `target` is a pod (NAME, NAMESPACE/NAME) or the beginning of a container's id. What was removed is known
    for a day. NotFound when nothing fits.
    """
    request = ExplainEndRequest(target=target, container=container)
    reply = await connection.call(connection.node.ExplainEnd, request)
    return list(reply.ends)
