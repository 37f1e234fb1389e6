"""Usage: two readings give a rate; what goes away meanwhile is left out."""

from __future__ import annotations

import pytest

from crib.model.errors import Broken, NotFound
from crib.model.stats import ContainerUsage, PodUsage
from tests.fakes.world import World, pod_config

CORE = 1_000_000_000


def rate(usage: ContainerUsage | PodUsage) -> int | None:
    assert usage.cgroup.cpu is not None
    return usage.cgroup.cpu.nano_cores


async def test_the_first_reading_has_no_rate_and_the_second_has(world: World) -> None:
    container = await world.running(await world.pod())
    _, usage = await world.node.stats.container(container)
    assert rate(usage) is None
    world.clock.advance(10)
    world.handler.statistics.cpu[container] = 5 * CORE
    record, usage = await world.node.stats.container(container)
    assert record.id == container
    assert rate(usage) == pytest.approx(CORE // 2, rel=0.001)


async def test_readings_close_together_give_the_previous_rate(world: World) -> None:
    container = await world.running(await world.pod())
    await world.node.stats.container(container)
    world.clock.advance(1)
    world.handler.statistics.cpu[container] = CORE
    _, usage = await world.node.stats.container(container)
    known = rate(usage)
    world.clock.advance(0.01)
    world.handler.statistics.cpu[container] = 50 * CORE
    _, usage = await world.node.stats.container(container)
    assert rate(usage) == known


async def test_a_counter_that_went_back_gives_no_negative_rate(world: World) -> None:
    container = await world.running(await world.pod())
    world.handler.statistics.cpu[container] = 9 * CORE
    await world.node.stats.container(container)
    world.clock.advance(1)
    world.handler.statistics.cpu[container] = 0
    _, usage = await world.node.stats.container(container)
    assert rate(usage) is None


async def test_a_pods_figures_hold_its_interfaces_and_its_living_containers(world: World) -> None:
    pod = await world.pod()
    running, created = await world.running(pod, "one"), await world.created(pod, "two")
    ended = await world.running(pod, "three")
    await world.node.containers.stop(ended, 0)
    figures = await world.node.stats.pod(pod)
    assert figures.sandbox.id == pod
    assert [interface.name for interface in figures.interfaces] == ["eth0"]
    assert [record.id for record, _ in figures.containers] == [running, created]


async def test_a_pod_on_the_host_network_has_no_interfaces_of_its_own(world: World) -> None:
    pod = await world.node.sandboxes.run(pod_config(host_network=True), "")
    assert (await world.node.stats.pod(pod)).interfaces == ()


async def test_one_that_cannot_be_read_is_left_out_of_a_list_but_told_alone(world: World) -> None:
    pod, other = await world.pod(), await world.pod("other")
    container, second = await world.running(pod), await world.running(other)
    world.handler.failpoints.set("container_usage=error(cgroup is gone)", subject=container)
    world.handler.failpoints.set("pod_usage=error(cgroup is gone)", subject=pod)
    found = await world.node.stats.containers(world.node.containers.list())
    assert [record.id for record, _ in found] == [second]
    assert [figures.sandbox.id for figures in await world.node.stats.pods(world.node.sandboxes.list())] == [
        other
    ]
    with pytest.raises(Broken):
        await world.node.stats.container(container)
    with pytest.raises(NotFound):
        await world.node.stats.pod("f" * 64)


async def test_stopped_pods_are_not_read(world: World) -> None:
    pod = await world.pod()
    await world.node.sandboxes.stop(pod)
    assert await world.node.stats.pods(world.node.sandboxes.list()) == []


async def test_readings_of_what_is_gone_are_forgotten(world: World) -> None:
    pod = await world.pod()
    for number in range(100):
        container = await world.created(pod, f"c{number}")
        await world.node.stats.container(container)
        await world.node.containers.remove(container)
    assert len(world.node.stats._readings) < 80
