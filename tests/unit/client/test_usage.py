"""What pods use, from runtimes that offer all, some or none of the calls for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from crib.client import Client, Connection, ContainerSpec, PodSpec
from crib.client.errors import RuntimeFailure
from crib.client.usage import PressureShares, RunningCount, Usage, UsageClient, rate
from crib.testing import FakeServer
from tests.unit.client.fake_usage import (
    SECOND,
    SERVER,
    WEB,
    UsageWorld,
    add_web,
    io_metrics,
    serve_usage,
    server_stats,
    web_stats,
)


@pytest.fixture
def world() -> UsageWorld:
    world = UsageWorld()
    add_web(world)
    return world


@pytest.fixture
async def connection(world: UsageWorld, tmp_path: Path) -> AsyncIterator[Connection]:
    server = await serve_usage(f"{tmp_path}/s", world)
    async with Connection(f"unix://{tmp_path}/s") as connection:
        yield connection
    await server.stop(None)


async def test_a_runtime_that_offers_everything_is_read_in_full(
    world: UsageWorld, connection: Connection
) -> None:
    world.pod_stats, world.pod_metrics = [web_stats(SECOND, 2, 500)], [io_metrics(SECOND, 4096)]
    (pod,) = (await UsageClient(connection).read()).pods
    (server,) = pod.containers
    assert (pod.id, pod.namespace, pod.name, server.id, server.name) == (
        WEB,
        "default",
        "web",
        SERVER,
        "server",
    )
    assert server.usage == Usage(
        cpu=RunningCount(SECOND, 2 * SECOND),
        memory=60 << 20,
        memory_limit=64 << 20,
        swap=4096,
        disk=8192,
        read=RunningCount(SECOND, 5096),
        pressure=PressureShares(cpu=12.5),
    )
    assert pod.usage == Usage(
        cpu=RunningCount(SECOND, 2 * SECOND),
        memory=61 << 20,
        swap=4096,
        processes=3,
        disk=8192,
        read=RunningCount(SECOND, 5096),
        received=RunningCount(SECOND, 500),
        sent=RunningCount(SECOND, 0),
    )


async def test_without_figures_of_pods_those_of_containers_are_taken_and_summed(
    world: UsageWorld, connection: Connection
) -> None:
    world.container_stats = [server_stats(SECOND, 2)]
    reader = UsageClient(connection)
    (pod,) = (await reader.read()).pods
    assert [one.name for one in pod.containers] == ["server"]
    assert pod.usage.cpu == RunningCount(SECOND, 2 * SECOND)
    assert pod.usage.memory == 60 << 20
    assert pod.usage.received is None
    await reader.read()
    assert sorted(world.asked) == [
        "ListContainerStats",
        "ListContainerStats",
        "ListPodSandboxMetrics",
        "ListPodSandboxStats",
    ]


async def test_of_a_runtime_without_any_figures_the_lists_are_left(connection: Connection) -> None:
    (pod,) = (await UsageClient(connection).read()).pods
    assert (pod.name, pod.usage) == ("web", Usage())
    assert [(one.name, one.usage) for one in pod.containers] == [("server", Usage())]


async def test_a_failure_is_told_and_asked_for_again(world: UsageWorld, connection: Connection) -> None:
    world.pod_stats, world.refusal = [web_stats(SECOND, 2, 0)], grpc.StatusCode.INTERNAL
    reader = UsageClient(connection)
    with pytest.raises(RuntimeFailure, match="the disk does not answer"):
        await reader.read()
    world.refusal = None
    assert len((await reader.read()).pods) == 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (RunningCount(0, 100), RunningCount(2 * SECOND, 300), 100.0),
        (RunningCount(0, 100), RunningCount(2 * SECOND, 100), 0.0),
        (None, RunningCount(1, 1), None),
        (RunningCount(1, 1), None, None),
        (RunningCount(5, 1), RunningCount(5, 9), None),
        (RunningCount(0, 300), RunningCount(SECOND, 100), None),
    ],
)
def test_a_rate_needs_two_readings_of_one_counter(
    before: RunningCount | None, after: RunningCount | None, expected: float | None
) -> None:
    assert rate(before, after) == expected


async def test_figures_of_containers_are_read_where_those_of_pods_fail() -> None:
    """As with containerd 1.6, which fails the whole list for one pod without a cgroup parent."""
    with FakeServer() as server:
        server.fail("ListPodSandboxStats", "UNKNOWN", "failed to obtain metrics: cgroupPath is empty")
        async with Client(server.endpoint) as client:
            made = await client.run_pod_container(PodSpec("web"), ContainerSpec("busybox"))
            (pod,) = (await client.stats()).pods
    assert pod.containers[0].id == made.container.id
    assert pod.usage.memory == 1 << 20
