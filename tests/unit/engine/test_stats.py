"""Usage: every first answer has a rate; what goes away meanwhile is left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from crib.engine.stats import BATCH, ContainerFigures, PodFigures
from crib.model.errors import Broken, NotFound
from tests.fakes.world import World, pod_config

CORE = 1_000_000_000

T = TypeVar("T")


def rate(figures: ContainerFigures | PodFigures) -> int | None:
    assert figures.usage.cgroup.cpu is not None
    return figures.nano_cores


async def every(batches: AsyncIterator[Sequence[T]]) -> list[T]:
    return [each async for batch in batches for each in batch]


async def test_what_was_just_created_has_a_rate_since_then_at_the_first_question(world: World) -> None:
    container = await world.running(await world.pod())
    world.clock.advance(10)
    world.handler.statistics.cpu[container] = 5 * CORE
    figures = await world.node.stats.container(container)
    assert figures.container.id == container
    assert rate(figures) == pytest.approx(CORE // 2, rel=0.001)
    assert len(world.handler.statistics.batches) == 1, "one reading is enough"


async def test_what_is_older_is_read_twice_for_a_rate_at_the_first_question(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    world.clock.advance(3600)
    statistics = world.handler.statistics
    statistics.cpu |= {pod: 900 * CORE, container: 900 * CORE}

    def go_on() -> None:
        world.clock.advance(0.1)
        statistics.cpu[container] += CORE // 20

    statistics.before_reading = go_on
    assert rate(await world.node.stats.container(container)) == pytest.approx(CORE // 2, rel=0.001)
    (figures,) = await every(world.node.stats.pods(world.node.sandboxes.list()))
    assert rate(figures) == 0
    assert rate(figures.containers[0]) == pytest.approx(CORE // 2, rel=0.001)


async def test_a_reading_that_is_too_old_counts_no_more(world: World) -> None:
    container = await world.running(await world.pod())
    statistics = world.handler.statistics
    await world.node.stats.container(container)
    world.clock.advance(3600)
    statistics.cpu[container] = 3000 * CORE
    statistics.before_reading = lambda: world.clock.advance(0.1)
    assert rate(await world.node.stats.container(container)) == 0, "it worked hard, but not now"


async def test_the_next_questions_have_the_rate_since_the_last_one(world: World) -> None:
    container = await world.running(await world.pod())
    await world.node.stats.container(container)
    world.clock.advance(10)
    world.handler.statistics.cpu[container] = 2 * CORE
    assert rate(await world.node.stats.container(container)) == pytest.approx(CORE // 5, rel=0.001)
    world.clock.advance(10)
    assert rate(await world.node.stats.container(container)) == 0


async def test_readings_close_together_give_the_previous_rate(world: World) -> None:
    container = await world.running(await world.pod())
    world.clock.advance(1)
    world.handler.statistics.cpu[container] = CORE
    known = rate(await world.node.stats.container(container))
    world.clock.advance(0.01)
    world.handler.statistics.cpu[container] = 50 * CORE
    assert rate(await world.node.stats.container(container)) == known


async def test_a_counter_that_went_back_gives_no_negative_rate(world: World) -> None:
    container = await world.running(await world.pod())
    world.clock.advance(1)
    world.handler.statistics.cpu[container] = 9 * CORE
    await world.node.stats.container(container)
    world.clock.advance(1)
    world.handler.statistics.cpu[container] = 0
    assert rate(await world.node.stats.container(container)) is None


async def test_a_pods_figures_hold_its_interfaces_and_its_living_containers(world: World) -> None:
    pod = await world.pod()
    running, created = await world.running(pod, "one"), await world.created(pod, "two")
    ended = await world.running(pod, "three")
    await world.node.containers.stop(ended, 0)
    figures = await world.node.stats.pod(pod)
    assert figures.sandbox.id == pod
    assert figures.usage.network is not None
    assert [interface.name for interface in figures.usage.network.interfaces] == ["eth0"]
    assert [each.container.id for each in figures.containers] == [running, created]


async def test_a_pod_on_the_host_network_has_no_interfaces_of_its_own(world: World) -> None:
    pod = await world.node.sandboxes.run(pod_config(host_network=True), "")
    assert (await world.node.stats.pod(pod)).usage.network is None


async def test_a_network_that_cannot_be_read_costs_the_other_figures_nothing(world: World) -> None:
    pod = await world.pod()
    world.networks.failpoints.set("usage=error(netlink is busy)")
    figures = await world.node.stats.pod(pod)
    assert figures.usage.network is None
    assert rate(figures) is not None


async def test_one_that_has_gone_meanwhile_is_left_out_of_a_list(world: World) -> None:
    pod = await world.pod()
    going, staying = await world.running(pod, "one"), await world.running(pod, "two")
    other = await world.pod("other")
    read = world.node.stats.containers(world.node.containers.list())
    world.handler.statistics.before_reading = lambda: world.node.containers._core.containers.remove(
        world.node.containers.get(going)
    )
    assert [each.container.id for each in await every(read)] == [staying]
    world.handler.statistics.before_reading = lambda: None
    pods = world.node.stats.pods(world.node.sandboxes.list())
    await world.node.sandboxes.stop(pod)
    assert [each.sandbox.id for each in await every(pods)] == [other]
    with pytest.raises(NotFound):
        await world.node.stats.pod("f" * 64)


async def test_figures_that_cannot_be_read_are_an_error_and_no_empty_list(world: World) -> None:
    container = await world.running(await world.pod())
    world.handler.failpoints.set("container_usage=error(no thread)")
    with pytest.raises(Broken):
        await every(world.node.stats.containers(world.node.containers.list()))
    with pytest.raises(Broken):
        await world.node.stats.container(container)


async def test_many_are_read_in_batches_and_told_as_they_come(world: World) -> None:
    pod = await world.pod()
    for number in range(2 * BATCH + 1):
        await world.created(pod, f"c{number}")
    told = [len(batch) async for batch in world.node.stats.containers(world.node.containers.list())]
    assert told == [BATCH, BATCH, 1]
    assert world.handler.statistics.batches == told, "what is new needs no second reading"


async def test_nothing_is_read_unless_somebody_asks(world: World) -> None:
    container = await world.running(await world.pod())
    await world.node.stats.container(container)
    read = len(world.handler.statistics.batches)
    world.clock.advance(3600)
    await world.node.containers.stop(container, 0)
    assert len(world.handler.statistics.batches) == read


async def test_stopped_pods_are_not_read(world: World) -> None:
    pod = await world.pod()
    await world.node.sandboxes.stop(pod)
    assert await every(world.node.stats.pods(world.node.sandboxes.list())) == []


async def test_readings_of_what_is_gone_are_forgotten(world: World) -> None:
    pod = await world.pod()
    for number in range(100):
        container = await world.created(pod, f"c{number}")
        await world.node.stats.container(container)
        await world.node.containers.remove(container)
    assert len(world.node.stats._rates._readings) < 80


async def test_parts_of_a_reading_are_read_one_after_the_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that read at the same time would only take the interpreter's lock from each other."""
    await world.running(await world.pod())
    statistics, networks = world.handler.statistics, world.networks
    under_way: set[str] = set()

    def alone(name: str, read: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def reading(*args: object, **kwargs: object) -> T:
            assert not under_way
            under_way.add(name)
            await asyncio.sleep(0)
            under_way.remove(name)
            return await read(*args, **kwargs)

        return reading

    for port, name in ((statistics, "pods"), (statistics, "containers"), (networks, "usage")):
        monkeypatch.setattr(port, name, alone(name, getattr(port, name)))
    (figures,) = await every(world.node.stats.pods(world.node.sandboxes.list()))
    assert figures.usage.network is not None
    assert len(figures.containers) == 1
