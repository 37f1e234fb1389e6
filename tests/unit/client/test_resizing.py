"""A pod's limits follow its containers': bigger before, smaller after, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.client import Connection, attempts, lookup, resizing
from crib.client.errors import WrongState
from crib.manifest.plan import INIT_CONTAINER
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.cli.command_world import IMAGE, add_container, add_pod, served
from tests.unit.client.fake_runtime import World

MIB = 1 << 20
POD, BOX = "UpdatePodSandboxResources", "UpdateContainerResources"


@pytest.fixture
def world() -> World:
    world = World(tells_configs=True)
    world.add_image(IMAGE)
    return world


@pytest.fixture
async def connection(world: World, tmp_path: Path) -> AsyncIterator[Connection]:
    async with served(world, tmp_path) as session, session.connect() as made:
        yield made


def limits(memory: int = 0, cpus: float = 0, shares: int = 2) -> cri.LinuxContainerResources:
    quota = int(cpus * 100_000)
    return cri.LinuxContainerResources(
        memory_limit_in_bytes=memory * MIB,
        cpu_quota=quota,
        cpu_period=100_000 if quota else 0,
        cpu_shares=shares,
    )


def pod_of(world: World, pod: cri.LinuxContainerResources, *containers: cri.LinuxContainerResources) -> str:
    made = add_pod(world, "web")
    world.configs[made].linux.resources.CopyFrom(pod)
    for number, one in enumerate(containers):
        box = add_container(world, made, f"box{number}")
        world.container_configs[box].linux.resources.CopyFrom(one)
    return made


async def change(connection: Connection, pod: str, name: str, **fields: int) -> None:
    container = lookup.latest(await lookup.containers(connection, pod))[name]
    await resizing.update_container(connection, container, cri.LinuxContainerResources(**fields))  # type: ignore[arg-type]  # protobuf's own types


def told(world: World, pod: str) -> list[tuple[int, int]]:
    return [(one.memory_limit_in_bytes // MIB, one.cpu_quota) for one in world.pod_updates.get(pod, [])]


async def test_a_pod_grows_before_and_shrinks_after_its_container(
    world: World, connection: Connection
) -> None:
    pod = pod_of(world, limits(96, 1.5, 3), limits(64, 1), limits(32, 0.5))
    await change(connection, pod, "box0", memory_limit_in_bytes=100 * MIB)
    assert (world.calls, told(world, pod)) == ([POD, BOX], [(132, 150_000)])
    world.calls.clear()
    await change(connection, pod, "box0", memory_limit_in_bytes=10 * MIB)
    assert (world.calls, told(world, pod)[1:]) == ([BOX, POD], [(42, 150_000)])
    world.calls.clear()
    await change(connection, pod, "box1", memory_limit_in_bytes=64 * MIB, cpu_quota=10_000)
    assert world.calls == [POD, BOX, POD], "more memory, and less CPU"
    assert told(world, pod)[2:] == [(74, 150_000), (74, 110_000)]


async def test_one_container_without_a_limit_leaves_the_pod_without_one(
    world: World, connection: Connection
) -> None:
    pod = pod_of(world, limits(96, 1.5, 2), limits(64, 1), limits(32, 0.5))
    await change(connection, pod, "box0", cpu_quota=-1)
    assert told(world, pod) == [(96, -1)]
    await change(connection, pod, "box0", cpu_quota=200_000)
    assert told(world, pod)[1:] == [(96, 250_000)]


async def test_a_refused_change_leaves_the_pod_as_it_was(world: World, connection: Connection) -> None:
    pod = pod_of(world, limits(64), limits(64))
    world.refuses_updates = True
    with pytest.raises(WrongState, match="in use"):
        await change(connection, pod, "box0", memory_limit_in_bytes=128 * MIB)
    assert told(world, pod) == [(128, -1), (64, -1)]


@pytest.mark.parametrize(
    "pods",
    [
        cri.LinuxContainerResources(),
        limits(500),  # said of the pod as a whole
    ],
)
async def test_limits_that_are_no_sum_stay(
    world: World, connection: Connection, pods: cri.LinuxContainerResources
) -> None:
    pod = pod_of(world, pods, limits(64))
    await change(connection, pod, "box0", memory_limit_in_bytes=128 * MIB)
    assert world.calls == [BOX]


async def test_a_kubelet_limits_its_pods_itself(world: World, connection: Connection) -> None:
    pod = pod_of(world, limits(64), limits(64))
    world.configs[pod].linux.cgroup_parent = "/kubepods/x"
    await change(connection, pod, "box0", memory_limit_in_bytes=128 * MIB)
    assert world.calls == [BOX]


async def test_a_runtime_that_does_not_tell_has_its_container_changed(
    world: World, connection: Connection
) -> None:
    pod = pod_of(world, limits(64), limits(64))
    world.tells_configs = False
    await change(connection, pod, "box0", memory_limit_in_bytes=128 * MIB)
    assert world.calls == [BOX]


async def test_an_init_container_counts_where_it_is_the_greatest(
    world: World, connection: Connection
) -> None:
    pod = add_pod(world, "web")
    world.configs[pod].linux.resources.CopyFrom(limits(256))
    init = add_container(world, pod, "init", cri.CONTAINER_EXITED, annotations={INIT_CONTAINER: "true"})
    world.container_configs[init].linux.resources.CopyFrom(limits(256))
    box = add_container(world, pod, "box")
    world.container_configs[box].linux.resources.CopyFrom(limits(64))
    await change(connection, pod, "box", memory_limit_in_bytes=128 * MIB)
    assert world.calls == [BOX]
    await change(connection, pod, "box", memory_limit_in_bytes=300 * MIB)
    assert told(world, pod) == [(300, -1)]


async def test_a_next_attempt_with_other_limits_moves_the_pod_too(
    world: World, connection: Connection
) -> None:
    pod = pod_of(world, limits(64), limits(64))
    await change(connection, pod, "box0", memory_limit_in_bytes=16 * MIB)
    config = cri.ContainerConfig(metadata=cri.ContainerMetadata(name="box0"))
    config.linux.resources.CopyFrom(limits(64))
    async with resizing.next_attempt(connection, pod, config):
        assert told(world, pod) == [(16, -1), (64, -1)]
    config.linux.resources.CopyFrom(limits(16))
    async with resizing.next_attempt(connection, pod, config):
        assert len(told(world, pod)) == 2, "as what is there"


async def test_a_pods_configuration_has_the_limits_in_force(world: World, connection: Connection) -> None:
    pod = pod_of(world, limits(64), limits(64))
    await change(connection, pod, "box0", memory_limit_in_bytes=128 * MIB)
    config = await attempts.sandbox_config(connection, pod)
    assert config.linux.resources.memory_limit_in_bytes == 128 * MIB
