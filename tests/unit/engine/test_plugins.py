"""What node plugins are asked and told in the verbs, in which order, and what they can refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from crib.model.container import ContainerState
from crib.model.edits import ContainerEdits
from crib.model.errors import WrongState
from crib.model.extension import VERBS, View
from crib.model.plugins import ContainerMoment, CreateAnswer, PodMoment, UpdateAnswer
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import Resources, SandboxState
from crib.ports.plugins import PluginRefused
from tests.fakes.plugins import FakePlugins, Told
from tests.fakes.world import World, bounded, container_config, pod_config, turns, until


@pytest.fixture
def plugins(world: World) -> FakePlugins:
    world.plugins.present = True
    return world.plugins


def refusing(times: int = 1) -> Callable[[], Awaitable[None]]:
    left = [times]

    async def refuse() -> None:
        if left[0]:
            left[0] -= 1
            raise PluginRefused("NRI plugin 10-fake says no")

    return refuse


class Held:
    """A call that has come, and goes on when it may."""

    def __init__(self) -> None:
        self.come, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.come.set()
        async with bounded():
            await self.go.wait()


async def test_a_whole_life_is_told_in_its_order_with_the_states(world: World, plugins: FakePlugins) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    node = world.node
    await node.containers.update(container, Resources(cpu_shares=100))
    await node.sandboxes.update(pod, None, Resources(cpu_shares=100))
    await node.containers.stop(container, 0)
    await node.containers.remove(container)
    await node.sandboxes.stop(pod)
    await node.sandboxes.remove(pod)
    assert plugins.told == [
        Told("RunPodSandbox", pod, "creating"),
        Told("CreateContainer", container, "creating"),
        Told("PostCreateContainer", container, "created"),
        Told("StartContainer", container, "created"),
        Told("PostStartContainer", container, "running"),
        Told("UpdateContainer", container, "running"),
        Told("PostUpdateContainer", container, "running"),
        Told("UpdatePodSandbox", pod, "ready"),
        Told("PostUpdatePodSandbox", pod, "ready"),
        Told("StopContainer", container, "exited"),
        Told("RemoveContainer", container, "removing"),
        Told("StopPodSandbox", pod, "not-ready"),
        Told("RemovePodSandbox", pod, "removing"),
    ]


async def test_nothing_is_put_together_for_what_nobody_hears(
    world: World, plugins: FakePlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[str]()

    def counting(port: Any) -> None:
        made_spec = port.made_spec

        def counted(row: Any) -> bytes:
            read.append(row.id)
            spec: bytes = made_spec(row)
            return spec

        monkeypatch.setattr(port, "made_spec", counted)

    counting(world.handler.pods)
    counting(world.handler.containers)
    plugins.deaf_to = {*PodMoment, *ContainerMoment, "StopContainer", "UpdateContainer"}
    pod = await world.pod()
    container = await world.running(pod)
    assert read == [pod], "for CreateContainer"
    await world.node.containers.update(container, Resources(cpu_shares=100))
    await world.node.containers.stop(container, 0)
    await world.node.sandboxes.stop(pod)
    await world.node.sandboxes.remove(pod)
    assert read == [pod]
    assert plugins.moments() == ["CreateContainer"]


async def test_a_pod_is_read_once_for_all_of_its_containers_and_again_when_its_row_has_changed(
    world: World, plugins: FakePlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await world.pod()
    await world.running(pod, "one")
    await world.running(pod, "two")
    ready = [shown for shown in plugins.pods if shown.record.state is SandboxState.READY]
    assert len(ready) > 4
    assert len({id(shown) for shown in ready}) == 1
    await world.node.sandboxes.update(pod, None, Resources(cpu_shares=100))
    await world.running(pod, "three")
    assert plugins.pods[-1].record is world.records.sandboxes[pod]
    assert plugins.pods[-1] is not ready[0]


async def test_nobody_is_told_anything_while_there_is_no_plugin(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    await world.node.containers.stop(container, 0)
    await world.node.sandboxes.remove(pod)
    assert world.plugins.told == []


async def test_a_pods_addresses_are_shown_and_the_pod_is_not_while_a_plugin_looks_at_it(
    world: World, plugins: FakePlugins
) -> None:
    plugins.before["RunPodSandbox"] = held = Held()
    run = asyncio.ensure_future(world.pod())
    async with bounded():
        await held.come.wait()
    shown = plugins.pods[0].record
    assert shown.network is not None
    assert shown.network.addresses
    assert list(world.node.sandboxes.list()) == []
    with pytest.raises(Exception, match="no pod sandbox"):
        await world.node.containers.create(shown.id, container_config())
    held.go.set()
    assert await run == shown.id
    assert world.node.sandboxes.get(shown.id).state is SandboxState.READY


async def test_a_refused_run_leaves_nothing_and_the_next_try_succeeds(
    world: World, plugins: FakePlugins
) -> None:
    plugins.before["RunPodSandbox"] = refusing()
    with pytest.raises(WrongState, match="10-fake says no"):
        await world.pod()
    assert list(world.node.sandboxes.list()) == []
    assert not world.handler.host.pods
    assert plugins.moments() == ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]
    assert world.node.sandboxes.get(await world.pod()).state is SandboxState.READY


async def test_nobody_is_alone_while_plugins_are_told_that_a_run_has_failed(
    world: World, plugins: FakePlugins
) -> None:
    await world.pulled()
    plugins.before["RunPodSandbox"] = refusing()
    plugins.before["StopPodSandbox"] = held = Held()
    running = asyncio.ensure_future(world.pod())
    alone = asyncio.Event()

    async def come() -> None:
        assert plugins.host is not None
        async with plugins.host.alone():
            alone.set()
            assert plugins.moments()[-1] != "StopPodSandbox"

    async with bounded():
        await held.come.wait()
        coming = asyncio.ensure_future(come())
        await turns()
        assert not alone.is_set()
        held.go.set()
        await asyncio.wait([running])
        await coming
    assert plugins.moments() == ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]
    assert isinstance(running.exception(), WrongState)


async def test_a_run_that_fails_before_plugins_hear_of_it_is_none_of_theirs(
    world: World, plugins: FakePlugins
) -> None:
    world.handler.failpoints.set("prepare_pod=1*error(no room)")
    with pytest.raises(Exception, match="no room"):
        await world.pod()
    assert plugins.told == []


async def test_a_container_is_hidden_while_plugins_are_asked_about_it(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    await world.pulled()
    plugins.before["CreateContainer"] = held = Held()
    create = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await held.come.wait()
    shown = plugins.containers[0]
    assert json.loads(shown.spec)["process"]["args"] == ["sleep", "60"]
    assert list(world.node.containers.list()) == []
    with pytest.raises(Exception, match="no container"):
        world.node.containers.get(shown.record.id)
    held.go.set()
    assert await create == shown.record.id


async def test_what_plugins_change_in_a_container_stays_known_with_its_origin(
    world: World, plugins: FakePlugins
) -> None:
    edits = ContainerEdits(
        "NRI 10-fake",
        env=(("COLOUR", "blue"),),
        resources=ResourceChange(memory_limit=1 << 20, memory_reservation=1 << 19),
    )
    plugins.creates = CreateAnswer((edits,))
    pod = await world.pod()
    container = await world.created(pod)
    assert world.inside(container).env["COLOUR"] == "blue"
    limits = world.node.containers.get(container).resources
    assert limits.memory_limit_in_bytes == 1 << 20
    assert limits.beyond.memory_reservation == 1 << 19
    after = await world.restarted()
    told = await after.node.containers.explain(container)
    assert "NRI 10-fake" in told.explained.origins.values()


async def test_a_refused_create_leaves_nothing_and_the_next_try_succeeds(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    await world.pulled()
    plugins.before["CreateContainer"] = refusing()
    with pytest.raises(WrongState, match="10-fake says no"):
        await world.created(pod)
    assert list(world.node.containers.list()) == []
    assert not world.handler.host.containers
    refused = plugins.containers[0].record.id
    assert plugins.moments(refused) == ["CreateContainer", "StopContainer", "RemoveContainer"]
    container = await world.running(pod)
    await world.node.containers.stop(container, 0)
    await world.node.containers.remove(container)


async def test_a_create_that_fails_after_plugins_were_asked_is_undone_with_them(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    await world.pulled()
    world.handler.failpoints.set("create_late=1*error(create_late)")
    with pytest.raises(Exception, match="create_late"):
        await world.created(pod)
    failed = plugins.containers[0].record.id
    assert plugins.moments(failed) == ["CreateContainer", "StopContainer", "RemoveContainer"]


async def test_a_create_that_is_given_up_when_it_is_done_is_told_to_be_over_once(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    await world.pulled()
    plugins.before["PostCreateContainer"] = held = Held()
    creating = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await held.come.wait()
        for work in world.node.keeper.works():
            work.abandon("nobody wants it any more")
        await asyncio.wait([creating])
    assert creating.exception() is not None
    container = plugins.containers[0].record.id
    await until(lambda: "RemoveContainer" in plugins.moments(container))
    await until(lambda: not world.node.keeper.works())
    assert plugins.moments(container) == [
        *("CreateContainer", "PostCreateContainer", "StopContainer", "RemoveContainer")
    ]


async def test_a_refused_start_ends_the_container_and_says_who_refused(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    plugins.before["StartContainer"] = refusing()
    with pytest.raises(WrongState, match="10-fake says no"):
        await world.node.containers.start(container)
    row = world.node.containers.get(container)
    assert (row.state, row.reason) == (ContainerState.EXITED, "StartError")
    assert "10-fake says no" in row.message
    await until(lambda: plugins.moments(container)[-1] == "StopContainer")


async def test_the_end_of_a_container_that_ends_by_itself_is_told_once(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    container = await world.running(pod, "app", "true")
    await until(lambda: "StopContainer" in plugins.moments(container))
    assert plugins.told[-1] == Told("StopContainer", container, "exited")
    await world.node.containers.stop(container, 5)
    await world.node.containers.remove(container)
    assert plugins.moments(container).count("StopContainer") == 1


async def test_a_stop_and_a_removal_do_not_wait_for_a_plugin_and_it_hears_of_them_in_order(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    plugins.before["StopContainer"] = held = Held()
    async with bounded():
        await world.node.containers.stop(container, 0)
        removal = asyncio.ensure_future(world.node.containers.remove(container))
        await held.come.wait()
    await turns()
    assert "RemoveContainer" not in plugins.moments(container)
    held.go.set()
    async with bounded():
        await removal
    assert plugins.moments(container)[-2:] == ["StopContainer", "RemoveContainer"]


async def test_a_removal_does_not_wait_for_the_word_of_an_end_that_was_given_up(
    world: World, plugins: FakePlugins
) -> None:
    container = await world.running(await world.pod())
    plugins.before["StopContainer"] = Held()
    world.handler.host.finish(container, 1)
    await until(lambda: any(work.name.startswith("tell plugins") for work in world.node.keeper.works()))
    for work in world.node.keeper.works():
        work.abandon("nobody wants to know")
    async with bounded():
        await world.node.containers.remove(container)
    assert list(world.node.containers.list()) == []


async def test_a_pods_stop_is_told_once_when_its_containers_have_ended_and_it_can_be_seen(
    world: World, plugins: FakePlugins
) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    plugins.before["StopPodSandbox"] = held = Held()
    stop = asyncio.ensure_future(world.node.sandboxes.stop(pod))
    async with bounded():
        await held.come.wait()
    assert world.node.containers.get(container).state is ContainerState.EXITED
    assert plugins.moments(container)[-1] == "StopContainer"
    assert world.node.sandboxes.get(pod).network is not None
    held.go.set()
    async with bounded():
        await stop
        await world.node.sandboxes.stop(pod)
    assert plugins.moments(pod).count("StopPodSandbox") == 1
    with pytest.raises(WrongState):
        await world.created(pod, "late")
    assert plugins.moments().count("CreateContainer") == 1


async def test_a_stop_that_is_tried_again_is_not_told_again(world: World, plugins: FakePlugins) -> None:
    pod = await world.pod()
    world.networks.failpoints.set("detach=1*error(detach)")
    with pytest.raises(Exception, match="detach"):
        await world.node.sandboxes.stop(pod)
    await world.node.sandboxes.stop(pod)
    await world.node.sandboxes.remove(pod)
    assert plugins.moments(pod) == ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]


async def test_what_ends_something_goes_on_whatever_plugins_say(world: World, plugins: FakePlugins) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    for moment in ("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"):
        plugins.before[moment] = refusing()
    await world.node.containers.stop(container, 0)
    await world.node.sandboxes.stop(pod)
    await world.node.sandboxes.remove(pod)
    assert list(world.node.sandboxes.list()) == []
    assert list(world.node.containers.list()) == []


async def test_what_plugins_make_of_an_update_is_put_in_force(world: World, plugins: FakePlugins) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    plugins.updates = UpdateAnswer(ResourceChange(cpu_shares=77, cpuset_cpus="0"))
    await world.node.containers.update(container, Resources(cpu_shares=100, oom_score_adj=5))
    assert plugins.changes == [ResourceChange(cpu_shares=100)]
    limits = world.inside(container).resources
    assert (limits.cpu_shares, limits.cpuset_cpus, limits.oom_score_adj) == (77, "0", 5)
    assert world.node.containers.get(container).resources == limits


async def test_a_refused_update_changes_nothing(world: World, plugins: FakePlugins) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    before = world.node.containers.get(container)
    plugins.before["UpdateContainer"] = refusing()
    with pytest.raises(WrongState, match="10-fake says no"):
        await world.node.containers.update(container, Resources(cpu_shares=100))
    plugins.before["UpdatePodSandbox"] = refusing()
    with pytest.raises(WrongState, match="10-fake says no"):
        await world.node.sandboxes.update(pod, None, Resources(cpu_shares=100))
    assert world.node.containers.get(container) == before
    assert world.node.sandboxes.get(pod).resources is None
    assert "PostUpdateContainer" not in plugins.moments()


async def test_calls_of_plugins_are_stages_of_the_pod(world: World, plugins: FakePlugins) -> None:
    pod = await world.pod()
    await world.running(pod)
    stages = [(stage.name, stage.subject) for stage in world.node.stages(pod)]
    for moment in ("RunPodSandbox", "CreateContainer", "StartContainer"):
        assert ("NRI 10-fake", moment) in stages


async def test_plugins_hear_that_the_daemon_stops(world: World, plugins: FakePlugins) -> None:
    await world.close()
    assert plugins.closed


async def test_a_pod_config_with_sysctls_is_shown_as_it_was_asked_for(
    world: World, plugins: FakePlugins
) -> None:
    async with bounded():
        await world.node.sandboxes.run(pod_config("web", sysctls={"net.ipv4.ip_forward": "1"}), "")
    assert plugins.pods[0].record.config.sysctls == {"net.ipv4.ip_forward": "1"}
    assert json.loads(plugins.pods[0].spec)


class Recorder:
    """A lifecycle hook that writes down what it is called for among what plugins are told."""

    name = "recorder"
    failure_refuses = True

    def __init__(self, plugins: FakePlugins) -> None:
        self.plugins = plugins
        self.moments = [f"{when}_{verb}" for when in ("before", "after") for verb in VERBS]

    async def call(self, moment: str, view: View) -> None:
        self.plugins.told.append(Told(moment, "", ""))


async def test_lifecycle_hooks_lie_around_what_plugins_are_asked_and_told(
    world: World, plugins: FakePlugins
) -> None:
    await world.pulled()
    world.hooks.append(Recorder(plugins))
    pod = await world.pod()
    container = await world.running(pod)
    await world.node.containers.update(container, Resources(cpu_shares=5))
    await world.node.sandboxes.stop(pod)
    await world.node.sandboxes.remove(pod)
    assert plugins.moments() == [
        *("before_run_pod", "RunPodSandbox", "after_run_pod"),
        *("before_create_container", "CreateContainer", "after_create_container", "PostCreateContainer"),
        *("before_start_container", "StartContainer", "after_start_container", "PostStartContainer"),
        *("before_update_container", "UpdateContainer", "PostUpdateContainer", "after_update_container"),
        *("before_stop_pod", "StopContainer", "StopPodSandbox", "after_stop_pod"),
        *("before_remove_pod", "RemoveContainer", "RemovePodSandbox", "after_remove_pod"),
    ]
