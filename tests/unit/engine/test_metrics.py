"""Metrics: whole readings of ready pods and their living containers, kept as long as the settings say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from crib.model.metrics import PodMetrics
from crib.model.settings import Settings, StatisticsSettings
from tests.fakes.settings import image_settings
from tests.fakes.world import World, pod_config

PERIOD = 10.0


@pytest.fixture
def keeping() -> World:
    statistics = StatisticsSettings(pod_metrics_period=PERIOD)
    return World(Settings(images=image_settings(pull_linger=0.0), statistics=statistics))


async def ask(world: World) -> dict[str, PodMetrics]:
    batches = [batch async for batch in world.node.metrics.pods(world.node.sandboxes.list())]
    return {metrics.sandbox.id: metrics for batch in batches for metrics in batch}


def users(found: Sequence[PodMetrics]) -> list[int | None]:
    return [metrics.pod.cgroup.cpu.user for metrics in found if metrics.pod.cgroup.cpu is not None]


async def test_a_pods_metrics_are_whole_and_of_its_living_containers(world: World) -> None:
    pod = await world.pod()
    running, created = await world.running(pod, "one"), await world.created(pod, "two")
    ended = await world.running(pod, "three")
    await world.node.containers.stop(ended, 0)
    found = (await ask(world))[pod]
    assert found.pod.cgroup.memory is not None
    assert found.pod.cgroup.memory.parts is not None
    assert [interface.name for interface in found.pod.interfaces] == ["eth0"]
    assert [record.id for record, _ in found.containers] == [running, created]
    for record, metered in found.containers:
        assert metered.limits is record.resources
        assert metered.started_at == record.started_at
        assert metered.writable_layer is not None


async def test_a_pod_that_is_not_ready_has_none_and_one_on_the_host_has_no_interfaces(world: World) -> None:
    gone = await world.pod()
    await world.node.sandboxes.stop(gone)
    on_host = await world.node.sandboxes.run(pod_config("host", host_network=True), "")
    found = await ask(world)
    assert set(found) == {on_host}
    assert found[on_host].pod.interfaces == ()


async def test_without_a_period_each_question_reads(world: World) -> None:
    pod = await world.pod()
    await ask(world)
    world.handler.statistics.cpu[pod] = 9
    assert users(list((await ask(world)).values())) == [9]


async def test_what_was_read_within_the_period_is_told_again(keeping: World) -> None:
    pod = await keeping.pod()
    first = await ask(keeping)
    keeping.handler.statistics.cpu[pod] = 9
    keeping.clock.advance(PERIOD - 1)
    assert await ask(keeping) == first
    keeping.clock.advance(1)
    assert users(list((await ask(keeping)).values())) == [9]


async def test_a_new_pod_is_read_at_once_and_a_gone_one_is_forgotten(keeping: World) -> None:
    first, second = await keeping.pod("first"), await keeping.pod("second")
    before = await ask(keeping)
    third = await keeping.pod("third")
    await keeping.node.sandboxes.stop(first)
    await keeping.node.sandboxes.remove(first)
    keeping.handler.statistics.cpu[third] = 9
    found = await ask(keeping)
    assert set(found) == {second, third}
    assert found[second] is before[second]
    assert set(keeping.node.metrics._kept) == {second, third}


async def test_a_pod_that_was_stopped_is_not_told_from_what_is_kept(keeping: World) -> None:
    pod = await keeping.pod()
    await ask(keeping)
    await keeping.node.sandboxes.stop(pod)
    assert await ask(keeping) == {}


async def test_a_clock_that_was_set_back_makes_nothing_fresh(keeping: World) -> None:
    pod = await keeping.pod()
    await ask(keeping)
    keeping.handler.statistics.cpu[pod] = 9
    keeping.clock.advance(-3600)
    assert users(list((await ask(keeping)).values())) == [9]
