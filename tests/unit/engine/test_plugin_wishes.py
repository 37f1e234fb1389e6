"""What node plugins want done to containers, and what they learn when they come."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from typing import Any

import pytest

from crib.engine import plugin_wishes
from crib.engine.endings import WantedEnd
from crib.engine.history import EventFilter
from crib.engine.plugin_wishes import USUAL_GRACE, grace_of
from crib.model.container import ContainerState
from crib.model.ends import EndCause
from crib.model.events import NodeEvent
from crib.model.ids import ContainerId
from crib.model.plugins import ContainerUpdate, CreateAnswer, Eviction, PluginOrders, ShownNode, UpdateAnswer
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import Resources
from crib.ports.plugins import PluginHost
from tests.fakes.plugins import FakePlugins
from tests.fakes.world import IMAGE, World, bounded, container_config, turns, until

GRACE = "io.kubernetes.pod.terminationGracePeriod"


@pytest.fixture
def plugins(world: World) -> FakePlugins:
    world.plugins.present = True
    return world.plugins


def host(world: World) -> PluginHost:
    assert world.plugins.host is not None
    return world.plugins.host


def update(container: str, **change: int | str) -> ContainerUpdate:
    return ContainerUpdate(ContainerId(container), ResourceChange(**change), "10-fake")  # type: ignore[arg-type]  # fields of it


async def ended(world: World, container: ContainerId) -> None:
    await until(lambda: world.node.containers.get(container).state is ContainerState.EXITED)


async def events(world: World) -> list[NodeEvent]:
    return [event async for batch in world.node.history.read(EventFilter()) for event in batch.events]


async def test_other_limits_are_put_in_force_and_shown(world: World, plugins: FakePlugins) -> None:
    container = await world.running(await world.pod())
    wanted = [
        update(container, cpu_shares=55, memory_reservation=4096),
        update(container, cpuset_cpus="1"),
    ]
    assert list(await host(world).update(wanted)) == []
    limits = world.inside(container).resources
    assert (limits.cpu_shares, limits.cpuset_cpus) == (55, "1")
    assert limits.beyond == ResourceChange(memory_reservation=4096)
    assert world.node.containers.get(container).resources == limits
    assert plugins.changes == [], "a plugin's own wish is no question to plugins"


async def test_what_cannot_be_changed_is_told_with_its_reason_and_the_rest_is_done(
    world: World, plugins: FakePlugins
) -> None:
    container = await world.running(await world.pod())
    gone = update("f" * 64, cpu_shares=2)
    fixed = update(container, blockio_class="slow")
    failed = await host(world).update([gone, fixed, update(container, cpu_shares=7)])
    assert [one.update for one in failed] == [gone, fixed]
    assert "no container" in failed[0].problem
    assert "class" in failed[1].problem
    assert world.inside(container).resources.cpu_shares == 7


async def test_an_update_of_a_container_that_is_busy_for_too_long_fails(
    world: World, plugins: FakePlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_wishes, "UPDATE_LIMIT", 0.01)
    container = await world.created(await world.pod())
    hold = world.handler.failpoints.hold("start")
    start = asyncio.ensure_future(world.node.containers.start(container))
    async with bounded():
        await hold.reached.wait()
        failed = await host(world).update([update(container, cpu_shares=7)])
        assert "more than" in failed[0].problem
        hold.release.set()
        await start
    await turns()
    assert world.inside(container).resources.cpu_shares == 0


async def test_what_comes_with_an_answer_is_done_before_the_container_is_made(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    old = await world.running(pod, "old")
    plugins.creates = CreateAnswer(orders=PluginOrders(updates=(update(old, cpuset_cpus="0"),)))
    hold = world.handler.failpoints.hold("create_late")
    create = asyncio.ensure_future(world.created(pod, "new"))
    async with bounded():
        await hold.reached.wait()
        assert world.inside(old).resources.cpuset_cpus == "0"
        hold.release.set()
        await create


async def test_what_plugins_want_when_a_container_has_ended_or_changes_is_done(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    one, two = await world.running(pod, "one"), await world.running(pod, "two")
    plugins.updates = UpdateAnswer(orders=PluginOrders(updates=(update(two, cpu_shares=3),)))
    await world.node.containers.update(one, Resources(cpu_shares=9))
    assert world.inside(one).resources.cpu_shares == 9
    assert world.inside(two).resources.cpu_shares == 3
    plugins.stops = PluginOrders(updates=(update(two, cpu_shares=4),))
    await world.node.containers.stop(one, 0)
    await until(lambda: world.inside(two).resources.cpu_shares == 4)


async def test_two_containers_that_end_and_whose_plugins_want_the_other_changed_do_not_block(
    world: World, plugins: FakePlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_wishes, "UPDATE_LIMIT", 3600.0)
    pod = await world.pod()
    one, two = await world.running(pod, "one"), await world.running(pod, "two")
    plugins.stops = PluginOrders(updates=(update(one, cpu_shares=4), update(two, cpu_shares=4)))
    async with bounded():
        await asyncio.gather(world.node.containers.remove(one), world.node.containers.remove(two))
    assert list(world.node.containers.list()) == []


async def test_an_evicted_container_gets_its_pods_grace_and_its_end_says_who_wanted_it_and_why(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    await world.pulled()
    config = replace(container_config("app"), annotations={GRACE: "7"})
    async with bounded():
        container = await world.node.containers.create(pod, config)
        await world.node.containers.start(container)
    await host(world).evict([Eviction(container, "no memory left", "10-fake")])
    await ended(world, container)
    assert world.inside(container).signals == [signal.SIGTERM]
    told = world.node.why(WantedEnd(container))[0].end
    assert told is not None
    assert told.stop is not None
    assert told.cause is EndCause.STOPPED
    assert (told.stop.verb, told.stop.grace) == ("eviction", 7.0)
    assert told.stop.reason == "NRI plugin 10-fake: no memory left"
    text = next(event.text for event in await events(world) if event.action == "evicted")
    assert text == "NRI plugin 10-fake: no memory left"
    assert ("NRI 10-fake", "evict app") in [(one.name, one.subject) for one in world.node.stages(pod)]
    await until(lambda: "StopContainer" in plugins.moments(container))


async def test_an_eviction_holds_up_nobody_and_one_of_what_is_gone_harms_nobody(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    old = await world.running(pod, "old")
    world.inside(old).stubborn = True
    evictions = (Eviction(old, "", "10-fake"), Eviction(ContainerId("f" * 64), "", "10-fake"))
    plugins.creates = CreateAnswer(orders=PluginOrders(evictions=evictions))
    await world.running(pod, "new")
    await until(lambda: signal.SIGTERM in world.inside(old).signals)
    assert world.node.containers.get(old).state is ContainerState.RUNNING
    await world.node.containers.stop(old, 0)
    await host(world).evict(evictions)
    assert world.node.containers.get(old).state is ContainerState.EXITED


async def test_a_container_that_is_being_evicted_is_not_evicted_again(
    world: World, plugins: FakePlugins
) -> None:
    container = await world.running(await world.pod())
    world.inside(container).stubborn = True
    for number in range(3):
        await host(world).evict([Eviction(container, f"reason {number}", "10-fake")])
    await until(lambda: signal.SIGTERM in world.inside(container).signals)
    works = [work for work in world.node.keeper.works() if work.name == "evict container"]
    assert len(works) == 1
    assert [event.text for event in await events(world) if event.action == "evicted"] == [
        "NRI plugin 10-fake: reason 0"
    ]
    await world.node.containers.stop(container, 0)


async def test_an_eviction_that_failed_can_be_wanted_again(world: World, plugins: FakePlugins) -> None:
    container = await world.running(await world.pod())
    world.handler.failpoints.set("signal=1*error(no such luck)")
    await host(world).evict([Eviction(container, "first", "10-fake")])
    await until(lambda: not world.node.keeper.works())
    assert world.node.containers.get(container).state is ContainerState.RUNNING
    await host(world).evict([Eviction(container, "second", "10-fake")])
    await ended(world, container)


async def test_updates_of_a_node_that_hangs_are_given_up_together(
    world: World, plugins: FakePlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_wishes, "UPDATE_LIMIT", 0.01)
    container = await world.created(await world.pod())
    hold = world.handler.failpoints.hold("start")
    start = asyncio.ensure_future(world.node.containers.start(container))
    async with bounded():
        await hold.reached.wait()
        failed = await host(world).update([update(container, cpu_shares=7)] * 5)
        hold.release.set()
        await start
    assert ["not tried" in one.problem for one in failed] == [False, False, True, True, True]


async def test_plugins_name_containers_by_their_whole_ids(world: World, plugins: FakePlugins) -> None:
    container = await world.running(await world.pod())
    beginning = ContainerId(container[:8])
    (failed,) = await host(world).update([update(beginning, cpu_shares=7)])
    assert "no container" in failed.problem
    await host(world).evict([Eviction(beginning, "", "10-fake")])
    assert "evicted" not in [event.action for event in await events(world)]


async def test_an_annotation_that_is_no_number_means_the_usual_grace(world: World) -> None:
    row = world.node.containers.get(await world.created(await world.pod()))
    assert grace_of(row) == USUAL_GRACE
    assert grace_of(replace(row, config=replace(row.config, annotations={GRACE: "soon"}))) == USUAL_GRACE
    assert grace_of(replace(row, config=replace(row.config, annotations={GRACE: "-1"}))) == 0.0


async def test_a_plugin_learns_of_all_that_is_there_and_has_not_ended(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    created, running = await world.created(pod, "created"), await world.running(pod, "running")
    over = await world.running(pod, "over")
    await world.node.containers.stop(over, 0)
    async with bounded(), host(world).alone() as there:
        assert [one.record.id for one in there.pods] == [pod]
        assert {one.record.id for one in there.containers} == {created, running}
        shown: list[Any] = [*there.pods, *there.containers]
        assert all(one.spec for one in shown)


async def test_each_container_is_either_shown_to_a_plugin_that_comes_or_it_is_asked_about_it(
    world: World,
) -> None:
    """Creates before, during and after: the first of them begins when there is no plugin yet."""
    pod = await world.pod()
    before = await world.created(pod, "before")
    hold = world.handler.failpoints.hold("create")
    under_way = asyncio.ensure_future(world.created(pod, "under way"))
    shown: list[ShownNode] = []
    synchronized = asyncio.Event()

    async def come() -> None:
        async with host(world).alone() as there:
            shown.append(there)
            await synchronized.wait()
            world.plugins.present = True

    async with bounded():
        await hold.reached.wait()
        coming = asyncio.ensure_future(come())
        await turns()
        assert shown == []
        hold.release.set()
        first = await under_way
        await until(lambda: bool(shown))
        during = [asyncio.ensure_future(world.created(pod, f"during-{number}")) for number in range(3)]
        new_pod = asyncio.ensure_future(world.pod("late"))
        await turns()
        assert not any(one.done() for one in (*during, new_pod))
        synchronized.set()
        late = {*await asyncio.gather(*during), await world.created(pod, "after")}
        await coming
        await new_pod
    assert {one.record.id for one in shown[0].containers} == {before, first}
    asked = {one.subject for one in world.plugins.told if one.moment == "CreateContainer"}
    assert asked == late
    assert [one.subject for one in world.plugins.told if one.moment == "RunPodSandbox"] == [await new_pod]


async def test_a_container_that_ends_while_the_first_plugin_comes_is_told_of_afterwards(
    world: World,
) -> None:
    container = await world.running(await world.pod())
    async with bounded():
        async with host(world).alone() as there:
            assert there.containers[0].record.state is ContainerState.RUNNING
            world.handler.host.finish(container, 3)
            await ended(world, container)
            world.plugins.present = True
            await turns()
            assert world.plugins.told == []
        await until(lambda: world.plugins.moments() == ["StopContainer"])
        async with host(world).alone() as there:
            assert there.containers == ()


async def test_a_container_that_ends_while_all_is_looked_up_is_shown_and_then_told_of(
    world: World, plugins: FakePlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_wishes, "SHOWN_AT_ONCE", 1)
    for number in range(20):
        pod = await world.pod(f"web-{number}")
    container = await world.running(pod)
    plugins.told.clear()
    async with bounded():
        world.handler.host.finish(container, 3)
        async with host(world).alone() as there:
            assert [one.record.state for one in there.containers] == [ContainerState.EXITED]
            assert plugins.told == []
        await until(lambda: plugins.moments() == ["StopContainer"])


async def test_a_pod_that_ends_while_the_first_plugin_comes_is_told_of_afterwards(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    async with bounded():
        async with host(world).alone():
            removal = asyncio.ensure_future(world.node.sandboxes.remove(pod))
            await ended(world, container)
            await turns()
            world.plugins.present = True
        await removal
    assert world.plugins.moments() == [
        *("StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox")
    ]


async def test_a_plugin_that_comes_again_after_a_restart_learns_the_true_state(world: World) -> None:
    pod = await world.pod()
    kept, lost = await world.running(pod, "kept"), await world.running(pod, "lost")
    world.handler.host.finish(lost, 1)
    after = await world.restarted()
    async with bounded(), host(after).alone() as there:
        assert [(one.record.id, one.record.state) for one in there.containers] == [
            (kept, ContainerState.RUNNING)
        ]
    assert after.node.images.status(IMAGE) is not None
