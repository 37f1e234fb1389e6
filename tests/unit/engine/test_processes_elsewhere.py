"""Pods and containers whose processes are none of this host, as those of virtual machines."""

from __future__ import annotations

import json

import pytest

from crib.api.translate.info import of_container, of_sandbox
from crib.model.container import ContainerState, ExecCommand
from crib.model.ids import ContainerId, SandboxId
from crib.model.sandbox import NamespaceMode, SandboxState
from tests.fakes.world import World, bounded, container_config, pod_config, until


@pytest.fixture
async def pod(world: World) -> SandboxId:
    """One whose containers share their pids, which here takes no process."""
    world.handler.host.elsewhere = True
    async with bounded():
        return await world.node.sandboxes.run(pod_config(pid=NamespaceMode.POD), "")


def shown(world: World, pod: SandboxId, container: ContainerId) -> list[dict[str, object]]:
    row, box = world.node.sandboxes.get(pod), world.node.containers.get(container)
    of_pod = of_sandbox(row, world.node.sandboxes.spec(row), ())
    of_box = of_container(box, world.node.containers.spec(box))
    return [json.loads(told["info"]) for told in (of_pod, of_box)]


async def test_a_life_needs_no_process_of_this_host(world: World, pod: SandboxId) -> None:
    container = await world.running(pod)
    row = world.node.containers.get(container)
    assert (row.process, row.monitor, world.node.sandboxes.get(pod).infra) == (None, None, None)
    of_pod, of_box = shown(world, pod, container)
    assert (of_pod["pid"], of_box["pid"], of_box["monitorPid"]) == (0, 0, 0)
    async with bounded():
        result = await world.node.containers.exec_sync(container, ExecCommand(("sh", "-c", "exit 3")))
        assert result.exit_code == 3
        await world.node.containers.stop(container, 0)
        assert world.node.containers.get(container).exit_code == 137
        await world.node.containers.remove(container)
        await world.node.sandboxes.remove(pod)
    assert (world.records.sandboxes, world.records.containers) == ({}, {})


async def test_who_asks_again_for_such_a_container_gets_it(world: World, pod: SandboxId) -> None:
    container = await world.created(pod)
    async with bounded():
        assert await world.node.containers.create(pod, container_config("app")) == container


async def test_stopping_the_pod_ends_such_a_container(world: World, pod: SandboxId) -> None:
    container = await world.running(pod)
    async with bounded():
        await world.node.sandboxes.stop(pod)
    assert world.node.containers.get(container).state is ContainerState.EXITED


async def test_the_next_daemon_keeps_what_runs_and_is_told_of_its_end(world: World, pod: SandboxId) -> None:
    created, running = await world.created(pod, "one"), await world.running(pod, "two")
    await world.restarted()
    states = [world.node.containers.get(key).state for key in (created, running)]
    assert states == [ContainerState.CREATED, ContainerState.RUNNING]
    assert world.node.sandboxes.get(pod).state is SandboxState.READY
    world.handler.host.finish(running, 4)
    await until(lambda: world.node.containers.get(running).exit_code == 4)
