"""What pods and containers use now, from any CRI runtime, as far as it answers.

Everything is read with calls of the CRI. What a runtime does not tell is None, never 0.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from crib.client import lookup
from crib.client.errors import NotOffered, RuntimeFailure
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.message import Message

    from crib.client.connection import Connection, UnaryMethod

_READS, _WRITES = "container_fs_reads_bytes_total", "container_fs_writes_bytes_total"
"""The CRI metrics with bytes of block devices, as cAdvisor names them. The CRI's statistics have none."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Io: TypeAlias = "tuple[RunningCount | None, RunningCount | None]"
"""Bytes read and written."""


@dataclass(frozen=True, slots=True)
class RunningCount:
    """A number that only grows, and when it was read (nanoseconds since the epoch)."""

    at: int
    value: int


@dataclass(frozen=True, slots=True)
class PressureShares:
    """The part of the last 10 s (percent) in which at least one task waited for the resource."""

    cpu: float | None = None
    memory: float | None = None
    io: float | None = None


NO_PRESSURE = PressureShares()


@dataclass(frozen=True, slots=True)
class Usage:
    """Figures of one pod or container. Memory, swap and disk are bytes; counters are bytes but for `cpu`."""

    cpu: RunningCount | None = None
    """Core-nanoseconds."""
    nano_cores: int | None = None
    """The runtime's own rate: 1,000,000,000 is one core."""
    memory: int | None = None
    """Working set."""
    memory_limit: int | None = None
    swap: int | None = None
    processes: int | None = None
    disk: int | None = None
    """The writable layer."""
    read: RunningCount | None = None
    written: RunningCount | None = None
    received: RunningCount | None = None
    sent: RunningCount | None = None
    pressure: PressureShares = NO_PRESSURE


@dataclass(frozen=True, slots=True)
class ContainerReading:
    """A container that has been made and has not ended."""

    id: str
    name: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class PodReading:
    """A ready pod with its containers."""

    id: str
    namespace: str
    name: str
    usage: Usage
    containers: tuple[ContainerReading, ...]


@dataclass(frozen=True, slots=True)
class UsageReading:
    """All of a runtime's pods at one moment."""

    at: int
    pods: tuple[PodReading, ...]


class UsageClient:
    """Reads again and again. A call that the runtime does not offer is tried once only."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._not_offered: set[type] = set()

    async def read(self) -> UsageReading:
        """All figures now. Raises ClientError when the runtime does not even list its pods."""
        at = time.time_ns()
        pods, metrics = await asyncio.gather(self._pods(), self._metrics())
        return UsageReading(at, tuple(_whole(pod, metrics) for pod in pods))

    async def _pods(self) -> list[PodReading]:
        runtime = self._connection.runtime
        try:
            reply = await self._ask(runtime.ListPodSandboxStats, pb.ListPodSandboxStatsRequest())
        except RuntimeFailure:
            reply = None  # containerd 1.6 fails them all for one pod without a cgroup parent
        if reply is None:
            return await self._pods_by_lists()
        return [_pod(stats) for stats in reply.stats]

    async def _pods_by_lists(self) -> list[PodReading]:
        """From a runtime without figures of pods: the lists, and the figures of containers."""
        runtime = self._connection.runtime
        sandboxes = await lookup.pods(self._connection)
        containers = await lookup.containers(self._connection)
        reply = await self._ask(runtime.ListContainerStats, pb.ListContainerStatsRequest())
        usages = {} if reply is None else {one.attributes.id: _container_usage(one) for one in reply.stats}
        running: dict[str, list[ContainerReading]] = {}
        for one in containers:
            if one.state in (pb.CONTAINER_RUNNING, pb.CONTAINER_CREATED):
                row = ContainerReading(one.id, one.metadata.name, usages.get(one.id, Usage()))
                running.setdefault(one.pod_sandbox_id, []).append(row)
        return [
            PodReading(
                pod.id, pod.metadata.namespace, pod.metadata.name, Usage(), tuple(running.get(pod.id, ()))
            )
            for pod in sandboxes
            if pod.state == pb.SANDBOX_READY
        ]

    async def _metrics(self) -> dict[str, _Io]:
        """Bytes read and written, by the id of a container or a pod."""
        runtime = self._connection.runtime
        reply = await self._ask(runtime.ListPodSandboxMetrics, pb.ListPodSandboxMetricsRequest())
        found: dict[str, _Io] = {}
        if reply is None:
            return found
        now = time.time_ns()
        for pod in reply.pod_metrics:
            found[pod.pod_sandbox_id] = _io(pod.metrics, now)
            for container in pod.container_metrics:
                found[container.container_id] = _io(container.metrics, now)
        return found

    async def _ask(self, method: UnaryMethod[_Request, _Response], request: _Request) -> _Response | None:
        """The answer; None from a runtime that does not offer the call."""
        if type(request) in self._not_offered:
            return None
        try:
            return await self._connection.call(method, request)
        except NotOffered:
            self._not_offered.add(type(request))
            return None


def rate(before: RunningCount | None, after: RunningCount | None) -> float | None:
    """By how much a counter grew in a second. None when it is not known, or began anew."""
    if before is None or after is None or after.at <= before.at or after.value < before.value:
        return None
    return (after.value - before.value) * 1e9 / (after.at - before.at)


def _pod(stats: pb.PodSandboxStats) -> PodReading:
    linux, metadata = stats.linux, stats.attributes.metadata
    received, sent = _traffic(linux.network)
    usage = Usage(
        cpu=_cpu(linux.cpu),
        nano_cores=_number(linux.cpu, "usage_nano_cores"),
        memory=_number(linux.memory, "working_set_bytes"),
        memory_limit=_limit(linux.memory),
        processes=_number(linux.process, "process_count"),
        received=received,
        sent=sent,
        pressure=_pressure(linux),
    )
    containers = tuple(
        ContainerReading(one.attributes.id, one.attributes.metadata.name, _container_usage(one))
        for one in linux.containers
    )
    return PodReading(stats.attributes.id, metadata.namespace, metadata.name, usage, containers)


def _container_usage(stats: pb.ContainerStats) -> Usage:
    return Usage(
        cpu=_cpu(stats.cpu),
        nano_cores=_number(stats.cpu, "usage_nano_cores"),
        memory=_number(stats.memory, "working_set_bytes"),
        memory_limit=_limit(stats.memory),
        swap=_number(stats.swap, "swap_usage_bytes"),
        disk=_number(stats.writable_layer, "used_bytes"),
        pressure=_pressure(stats),
    )


def _number(message: Message, field: str) -> int | None:
    """A wrapped number, None where it is unset."""
    return int(getattr(message, field).value) if message.HasField(field) else None


def _cpu(found: pb.CpuUsage) -> RunningCount | None:
    value = _number(found, "usage_core_nano_seconds")
    return None if value is None else RunningCount(found.timestamp, value)


def _limit(found: pb.MemoryUsage) -> int | None:
    """The CRI tells what is left of the limit, and nothing where there is none."""
    left, used = _number(found, "available_bytes"), _number(found, "working_set_bytes")
    return None if not left or used is None else left + used


def _pressure(stats: pb.LinuxPodSandboxStats | pb.ContainerStats) -> PressureShares:
    return PressureShares(*(_share(part) for part in (stats.cpu, stats.memory, stats.io)))


def _share(part: pb.CpuUsage | pb.MemoryUsage | pb.IoUsage) -> float | None:
    return part.psi.Some.Avg10 if part.HasField("psi") and part.psi.HasField("Some") else None


def _traffic(network: pb.NetworkUsage) -> tuple[RunningCount | None, RunningCount | None]:
    """Of all interfaces but the loopback."""
    found = [one for one in (network.default_interface, *network.interfaces) if one.name not in ("", "lo")]
    if not found:
        return None, None
    received = sum(one.rx_bytes.value for one in found)
    sent = sum(one.tx_bytes.value for one in found)
    return RunningCount(network.timestamp, received), RunningCount(network.timestamp, sent)


def _io(metrics: Iterable[pb.Metric], now: int) -> _Io:
    counters: dict[str, RunningCount] = {}
    for metric in metrics:
        if metric.name in (_READS, _WRITES):  # one for each device
            before = counters.get(metric.name)
            value = metric.value.value + (before.value if before else 0)
            counters[metric.name] = RunningCount(metric.timestamp or now, value)
    return counters.get(_READS), counters.get(_WRITES)


def _whole(pod: PodReading, metrics: Mapping[str, _Io]) -> PodReading:
    """With bytes of block devices; what the runtime does not tell of a pod is the sum of its containers."""
    containers = tuple(replace(one, usage=_with_io(one.usage, metrics.get(one.id))) for one in pod.containers)
    own, parts = _with_io(pod.usage, metrics.get(pod.id)), [one.usage for one in containers]
    usage = replace(
        own,
        cpu=own.cpu or _sum(one.cpu for one in parts),
        memory=_first(own.memory, _total(one.memory for one in parts)),
        swap=_first(own.swap, _total(one.swap for one in parts)),
        disk=_first(own.disk, _total(one.disk for one in parts)),
        read=own.read or _sum(one.read for one in parts),
        written=own.written or _sum(one.written for one in parts),
    )
    return replace(pod, usage=usage, containers=containers)


def _with_io(usage: Usage, found: _Io | None) -> Usage:
    return usage if found is None else replace(usage, read=found[0], written=found[1])


def _first(own: int | None, other: int | None) -> int | None:
    return other if own is None else own


def _total(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _sum(counters: Iterable[RunningCount | None]) -> RunningCount | None:
    known = [one for one in counters if one is not None]
    if not known:
        return None
    return RunningCount(max(one.at for one in known), sum(one.value for one in known))
