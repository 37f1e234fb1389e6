"""UpdateContainerResources and UpdatePodSandboxResources."""

from __future__ import annotations

import asyncio
import signal

import pytest

from crib.model.errors import Broken, InvalidRequest, NotFound, WrongState
from crib.model.sandbox import Resources
from crib.model.settings import Settings
from tests.fakes.world import World, bounded, pod_config

MIB = 1 << 20


async def test_an_update_is_merged_put_in_force_and_kept(world: World) -> None:
    container = await world.running(await world.pod())
    update = world.node.containers.update
    async with bounded():
        await update(container, Resources(memory_limit_in_bytes=64 * MIB, cpu_shares=100))
        await update(container, Resources(cpu_shares=200))
    wanted = Resources(memory_limit_in_bytes=64 * MIB, cpu_shares=200)
    assert world.inside(container).resources == wanted
    record = world.node.containers.get(container)
    assert record.resources == wanted
    assert record.config.resources == Resources()


async def test_an_update_outlives_the_daemon(world: World) -> None:
    container = await world.running(await world.pod())
    async with bounded():
        await world.node.containers.update(container, Resources(cpu_shares=200))
        await world.restarted()
    assert world.node.containers.get(container).resources == Resources(cpu_shares=200)


async def test_a_created_container_can_be_updated_and_an_exited_one_cannot(world: World) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    async with bounded():
        await world.node.containers.update(container, Resources(cpu_shares=7))
        assert world.inside(container).resources.cpu_shares == 7
        await world.node.containers.start(container)
        await world.node.containers.stop(container, 0)
        with pytest.raises(WrongState, match="cannot update"):
            await world.node.containers.update(container, Resources(cpu_shares=8))
        with pytest.raises(NotFound):
            await world.node.containers.update("f" * 64, Resources())
    assert world.inside(container).signals == [signal.SIGKILL]


async def test_what_is_refused_or_fails_leaves_the_record_as_it_was(world: World) -> None:
    container = await world.running(await world.pod())
    world.inside(container).in_use = 100 * MIB
    async with bounded():
        with pytest.raises(WrongState, match="in use"):
            await world.node.containers.update(container, Resources(memory_limit_in_bytes=MIB))
        with pytest.raises(InvalidRequest):
            await world.node.containers.update(container, Resources(cpuset_cpus="x"))
        world.handler.failpoints.set("update=1*error(no)")
        with pytest.raises(Broken):
            await world.node.containers.update(container, Resources(cpu_shares=1))
    assert world.node.containers.get(container).resources == Resources()


async def test_two_updates_of_one_container_come_one_after_the_other(world: World) -> None:
    container = await world.running(await world.pod())
    hold = world.handler.failpoints.hold("update")
    first = asyncio.ensure_future(world.node.containers.update(container, Resources(cpu_shares=1)))
    async with bounded():
        await hold.reached.wait()
        second = asyncio.ensure_future(world.node.containers.update(container, Resources(cpu_quota=2)))
        hold.release.set()
        await asyncio.gather(first, second)
    assert world.node.containers.get(container).resources == Resources(cpu_shares=1, cpu_quota=2)


async def test_a_pods_resources_are_put_in_force_and_kept_beside_its_config(world: World) -> None:
    sandbox = await world.pod()
    overhead, resources = Resources(memory_limit_in_bytes=MIB), Resources(cpu_shares=100)
    async with bounded():
        await world.node.sandboxes.update(sandbox, overhead, None)
        await world.node.sandboxes.update(sandbox, None, resources)
    assert world.handler.host.pods[sandbox].limits == (overhead, resources)
    async with bounded():
        await world.restarted()
        record = world.node.sandboxes.get(sandbox)
        assert (record.overhead, record.resources) == (overhead, resources)
        # the name is still taken by the same config: a retry is a retry
        assert await world.node.sandboxes.run(pod_config(), "") == sandbox


async def test_a_pod_that_is_stopped_or_unknown_is_not_updated(world: World) -> None:
    sandbox = await world.pod()
    async with bounded():
        world.handler.failpoints.set("update_pod=1*error(no)")
        with pytest.raises(Broken):
            await world.node.sandboxes.update(sandbox, None, Resources(cpu_shares=1))
        assert world.node.sandboxes.get(sandbox).resources is None
        await world.node.sandboxes.stop(sandbox)
        with pytest.raises(WrongState, match="update resources"):
            await world.node.sandboxes.update(sandbox, None, Resources(cpu_shares=1))
        with pytest.raises(NotFound):
            await world.node.sandboxes.update("f" * 64, None, None)


def test_the_driver_that_kubelets_ask_for_is_the_settings() -> None:
    assert World().node.cgroup_driver == "cgroupfs"
    assert World(Settings(cgroup_driver="systemd")).node.cgroup_driver == "systemd"
