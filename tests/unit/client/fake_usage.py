"""The fake runtime with statistics and metrics; it offers as many of the calls as a test says."""

# ruff: noqa: N802  # names are the service's own

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from crib.stubs.runtime.v1 import api_pb2 as cri
from crib.stubs.runtime.v1 import api_pb2_grpc
from tests.unit.client.fake_runtime import FakeRuntime, World

SECOND = 1_000_000_000
WEB, SERVER = "aa01" + "0" * 60, "bb01" + "0" * 60


@dataclass
class UsageWorld(World):
    """What the fake answers. None: the call is not offered."""

    pod_stats: list[cri.PodSandboxStats] | None = None
    container_stats: list[cri.ContainerStats] | None = None
    pod_metrics: list[cri.PodSandboxMetrics] | None = None
    later: dict[str, list[Any]] = field(default_factory=dict)
    """By the call: the answer from the second time on."""
    asked: list[str] = field(default_factory=list)
    heard: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """The same, for tests that wait."""
    refusal: grpc.StatusCode | None = None
    """With which the calls for figures fail now."""


class FakeUsageRuntime(FakeRuntime):
    world: UsageWorld

    async def _offered(self, call: str, found: list[Any] | None, context: Any) -> list[Any]:
        is_first = call not in self.world.asked
        self.world.asked.append(call)
        self.world.heard.put_nowait(call)
        if self.world.refusal is not None:
            await context.abort(self.world.refusal, "the disk does not answer")
        if found is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {call}")
        assert found is not None
        return found if is_first else self.world.later.get(call, found)

    async def ListPodSandboxStats(self, request: Any, context: Any) -> cri.ListPodSandboxStatsResponse:
        found = await self._offered("ListPodSandboxStats", self.world.pod_stats, context)
        return cri.ListPodSandboxStatsResponse(stats=found)

    async def PodSandboxStats(self, request: Any, context: Any) -> cri.PodSandboxStatsResponse:
        found = await self._offered("PodSandboxStats", self.world.pod_stats, context)
        named = [one for one in found if one.attributes.id == request.pod_sandbox_id]
        return cri.PodSandboxStatsResponse(stats=named[0])

    async def ListContainerStats(self, request: Any, context: Any) -> cri.ListContainerStatsResponse:
        found = await self._offered("ListContainerStats", self.world.container_stats, context)
        return cri.ListContainerStatsResponse(stats=found)

    async def ContainerStats(self, request: Any, context: Any) -> cri.ContainerStatsResponse:
        found = await self._offered("ContainerStats", self.world.container_stats, context)
        named = [one for one in found if one.attributes.id == request.container_id]
        return cri.ContainerStatsResponse(stats=named[0])

    async def ListPodSandboxMetrics(self, request: Any, context: Any) -> cri.ListPodSandboxMetricsResponse:
        found = await self._offered("ListPodSandboxMetrics", self.world.pod_metrics, context)
        return cri.ListPodSandboxMetricsResponse(pod_metrics=found)


def add_web(world: UsageWorld) -> None:
    """A ready pod with a running container and one that has ended."""
    metadata = cri.PodSandboxMetadata(name="web", namespace="default", uid="u")
    world.pods[WEB] = cri.PodSandbox(id=WEB, metadata=metadata)
    for container, name, state in (
        (SERVER, "server", cri.CONTAINER_RUNNING),
        ("bb02" + "0" * 60, "setup", cri.CONTAINER_EXITED),
    ):
        world.owner[container] = WEB
        status = cri.ContainerStatus(id=container, metadata=cri.ContainerMetadata(name=name), state=state)
        world.containers[container] = status


def number(value: int) -> cri.UInt64Value:
    return cri.UInt64Value(value=value)


def server_stats(at: int, cpu_seconds: float) -> cri.ContainerStats:
    """Of the container `server`, as a node with cgroup v2 has them."""
    stats = cri.ContainerStats(
        attributes=cri.ContainerAttributes(id=SERVER, metadata=cri.ContainerMetadata(name="server")),
        cpu=cri.CpuUsage(timestamp=at, usage_core_nano_seconds=number(int(cpu_seconds * SECOND))),
        memory=cri.MemoryUsage(
            timestamp=at, working_set_bytes=number(60 << 20), available_bytes=number(4 << 20)
        ),
        swap=cri.SwapUsage(timestamp=at, swap_usage_bytes=number(4096)),
        writable_layer=cri.FilesystemUsage(timestamp=at, used_bytes=number(8192)),
    )
    stats.cpu.psi.Some.Avg10 = 12.5
    return stats


def web_stats(at: int, cpu_seconds: float, received: int) -> cri.PodSandboxStats:
    """Of the pod `web`, with its container."""
    metadata = cri.PodSandboxMetadata(name="web", namespace="default", uid="u")
    network = cri.NetworkUsage(
        timestamp=at,
        default_interface=cri.NetworkInterfaceUsage(
            name="eth0", rx_bytes=number(received), tx_bytes=number(0)
        ),
        interfaces=[cri.NetworkInterfaceUsage(name="lo", rx_bytes=number(999))],
    )
    return cri.PodSandboxStats(
        attributes=cri.PodSandboxAttributes(id=WEB, metadata=metadata),
        linux=cri.LinuxPodSandboxStats(
            cpu=cri.CpuUsage(timestamp=at, usage_core_nano_seconds=number(int(cpu_seconds * SECOND))),
            memory=cri.MemoryUsage(timestamp=at, working_set_bytes=number(61 << 20)),
            network=network,
            process=cri.ProcessUsage(timestamp=at, process_count=number(3)),
            containers=[server_stats(at, cpu_seconds)],
        ),
    )


def io_metrics(at: int, read: int) -> cri.PodSandboxMetrics:
    """Bytes that `server` read of two disks."""
    metrics = [
        cri.Metric(name="container_fs_reads_bytes_total", timestamp=at, value=number(part))
        for part in (read, 1000)
    ]
    metrics.append(cri.Metric(name="container_memory_cache", timestamp=at, value=number(5)))
    return cri.PodSandboxMetrics(
        pod_sandbox_id=WEB,
        container_metrics=[cri.ContainerMetrics(container_id=SERVER, metrics=metrics)],
    )


async def serve_usage(path: str, world: UsageWorld) -> grpc.aio.Server:
    """Start the fake at a socket, without crib's Node service."""
    server = grpc.aio.server()
    api_pb2_grpc.add_RuntimeServiceServicer_to_server(FakeUsageRuntime(world), server)
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    return server
