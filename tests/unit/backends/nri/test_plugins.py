"""What plugins are asked and told, over the real wire."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from crib.backends.nri.moments import Moment
from crib.backends.nri.plugins import NriPlugins
from crib.model.ids import HandlerName
from crib.model.nri_settings import NriSettings, ValidatorSettings
from crib.model.plugin_status import PluginState
from crib.model.plugins import ContainerMoment, ContainerUpdate, Eviction, PluginOrders, PodMoment
from crib.model.resource_change import ResourceChange
from crib.ports.plugins import PluginRefused
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.ttrpc.errors import CallFailed
from crib.wire.rpc_codes import Code
from tests.plugin_lab import (
    BOUND,
    Begin,
    Join,
    LabHost,
    LabPlugin,
    bounded,
    no_stage,
    ready,
    shown_container,
    shown_pod,
    until,
)


def failing(text: str = "no room", code: Code = Code.UNKNOWN) -> Any:
    async def fail(request: Any) -> Any:
        raise CallFailed(code, text)

    return fail


class Held:
    """An answer that waits until it is let go."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.go = asyncio.Event()
        self.running = self.most = 0
        self.asked: Callable[[], None] = lambda: None

    async def __call__(self, request: Any) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        self.asked()
        await self.go.wait()
        self.running -= 1
        return self._answer


async def test_a_plugin_that_has_joined_is_told_of_pods_and_containers(
    plugins: NriPlugins, join: Join
) -> None:
    assert not plugins.present
    plugin = await join()
    assert plugins.present
    await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
    pod, container = shown_container()
    for moment in ContainerMoment:
        await plugins.container(moment, pod, container, no_stage)
    assert plugin.calls == ["RunPodSandbox", *ContainerMoment]
    (status,) = plugins.statuses()
    assert (status.name, status.state, status.calls, status.failures) == (
        "10-lab",
        PluginState.READY,
        3 + len(ContainerMoment),
        0,
    )
    assert (await plugin.until_heard("StartContainer")).container.id == "ctr-web"


async def test_plugins_are_asked_by_index_and_then_by_name(plugins: NriPlugins, join: Join) -> None:
    order: list[str] = []
    for base, index in (("z", "10"), ("a", "90"), ("a", "10"), ("m", "05")):
        plugin = LabPlugin(base, index)

        async def note(request: Any, name: str = f"{index}-{base}") -> Any:
            order.append(name)
            return pb.RunPodSandboxResponse()

        plugin.answers["RunPodSandbox"] = note
        await join(plugin)
    await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
    assert order == ["05-m", "10-a", "10-z", "90-a"]
    assert [one.name for one in plugins.statuses()] == order


async def test_a_plugin_hears_only_of_what_it_subscribes_to(plugins: NriPlugins, join: Join) -> None:
    plugin = await join(LabPlugin(events=Moment.STOP_POD_SANDBOX.bit))
    pod, container = shown_container()
    await plugins.pod(PodMoment.RUN, pod, no_stage)
    await plugins.create(pod, container, no_stage)
    await plugins.pod(PodMoment.STOP, pod, no_stage)
    assert plugin.calls == ["StopPodSandbox"]
    assert plugins.statuses()[0].events == ("StopPodSandbox",)


async def test_whether_anybody_hears_of_something_is_known_beforehand(
    plugins: NriPlugins, join: Join
) -> None:
    assert not plugins.hears("StopContainer")
    one = await join(LabPlugin(events=Moment.STOP_CONTAINER.bit))
    assert plugins.hears("StopContainer")
    assert not plugins.hears("RunPodSandbox")
    await one.close()
    await until(lambda: not plugins.statuses())
    assert not plugins.hears("StopContainer")


async def test_a_pod_that_is_shown_anew_is_told_anew(plugins: NriPlugins, join: Join) -> None:
    one = await join(LabPlugin(events=Moment.START_CONTAINER.bit))
    pod, container = shown_container()
    changed = replace(pod, record=replace(pod.record, handler=HandlerName("another")))
    for shown in (pod, pod, changed):
        await plugins.container(ContainerMoment.START, shown, container, no_stage)
    told = [request.pod.runtime_handler for name, request in one.heard if name == "StartContainer"]
    assert told == [pod.record.handler, pod.record.handler, "another"]


async def test_an_error_refuses_what_has_not_been_done_and_ends_the_round(
    plugins: NriPlugins, join: Join
) -> None:
    first, second = LabPlugin("first", "10"), LabPlugin("second", "20")
    first.answers["RunPodSandbox"] = failing()
    await join(first)
    await join(second)
    with pytest.raises(PluginRefused, match="plugin 10-first failed in RunPodSandbox of pod-web: no room"):
        await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
    assert second.calls == []
    assert [one.failures for one in plugins.statuses()] == [1, 0]
    assert plugins.figures.calls.failures.counts == {("10-first", "RunPodSandbox"): 1}


@pytest.mark.parametrize("moment", [PodMoment.STOP, PodMoment.REMOVE, PodMoment.POST_UPDATE])
async def test_of_what_cannot_be_refused_all_plugins_hear(
    moment: PodMoment, plugins: NriPlugins, join: Join
) -> None:
    first, second = LabPlugin("first", "10"), LabPlugin("second", "20")
    first.answers[moment] = failing()
    await join(first)
    await join(second)
    with pytest.raises(PluginRefused, match=f"10-first failed in {moment}"):
        await plugins.pod(moment, shown_pod(), no_stage)
    assert second.calls == [moment]


async def test_a_plugin_that_does_not_answer_in_time_is_dropped_and_the_verb_goes_on(
    begin: Begin, settings: NriSettings, host: LabHost, connected: list[LabPlugin]
) -> None:
    plugins = await begin()
    hung, other = LabPlugin("hung", "10"), LabPlugin("other", "20")
    held = hung.answers["RunPodSandbox"] = Held(pb.RunPodSandboxResponse())
    held.asked = lambda: setattr(plugins, "limit", BOUND)  # the other one may take its time
    connected += [hung, other]
    for one in connected:
        await one.join(settings.socket)
    await ready(plugins, 2)
    plugins.limit = 0.2
    async with bounded():
        await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
        await hung.gone()
    assert other.calls == ["RunPodSandbox"]
    await until(lambda: [one.name for one in plugins.statuses()] == ["20-other"])
    assert plugins.figures.timeouts.counts == {("10-hung",): 1}
    assert plugins.figures.dropped.counts == {("10-hung",): 1}
    await until(lambda: host.notes)
    assert "did not answer RunPodSandbox of pod-web within 0.2 s" in host.notes["NRI plugin 10-hung"]
    held.go.set()


async def test_what_it_is_noted_for_is_over_when_a_plugin_comes_back(
    begin: Begin, settings: NriSettings, host: LabHost, connected: list[LabPlugin]
) -> None:
    plugins = await begin(replace(settings, request_timeout=0.2))
    hung, again = LabPlugin(), LabPlugin()
    connected += [hung, again]
    held = hung.answers["RunPodSandbox"] = Held(pb.RunPodSandboxResponse())
    await hung.join(settings.socket)
    await ready(plugins)
    await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
    held.go.set()
    await hung.gone()
    await until(lambda: host.notes)
    await again.join(settings.socket)
    await ready(plugins)
    assert host.notes == {}


async def test_an_answer_that_is_none_drops_the_plugin(plugins: NriPlugins, join: Join) -> None:
    plugin = LabPlugin()
    plugin.raw["RunPodSandbox"] = b"\xff\xff\xff"
    await join(plugin)
    await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
    await plugin.gone()
    await until(lambda: not plugins.statuses())


async def test_an_older_plugin_is_told_by_its_one_call(plugins: NriPlugins, join: Join) -> None:
    older = LabPlugin()
    older.lacks = {"RunPodSandbox", "StartContainer"}
    await join(older)
    pod, container = shown_container()
    for _ in range(2):
        await plugins.pod(PodMoment.RUN, pod, no_stage)
        await plugins.container(ContainerMoment.START, pod, container, no_stage)
    await plugins.container(ContainerMoment.POST_START, pod, container, no_stage)
    assert older.calls == [*["StateChange"] * 4, "PostStartContainer"]
    events = [request for name, request in older.heard if name == "StateChange"]
    assert [(one.event, one.pod.id, one.container.id) for one in events[:2]] == [
        (pb.RUN_POD_SANDBOX, "pod-web", ""),
        (pb.START_CONTAINER, "pod-web", "ctr-web"),
    ]
    assert plugins.statuses()[0].failures == 0


async def test_what_a_plugin_does_not_have_in_any_form_it_is_not_asked_again(
    plugins: NriPlugins, join: Join
) -> None:
    plugin = LabPlugin()
    plugin.lacks = {"UpdatePodSandbox", "RunPodSandbox", "StateChange"}
    await join(plugin)
    for _ in range(2):
        await plugins.pod(PodMoment.UPDATE, shown_pod(), no_stage)
        await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
    await plugins.pod(PodMoment.STOP, shown_pod(), no_stage)
    assert plugin.calls == ["StopPodSandbox"]
    (status,) = plugins.statuses()
    assert "UpdatePodSandbox" not in status.events
    assert "RunPodSandbox" not in status.events


async def test_edits_come_in_the_order_of_the_plugins_and_name_them(plugins: NriPlugins, join: Join) -> None:
    for base, index in (("b", "20"), ("a", "10")):
        plugin = LabPlugin(base, index)
        adjust = pb.ContainerAdjustment(env=[pb.KeyValue(key=base, value=index)])
        plugin.answers["CreateContainer"] = pb.CreateContainerResponse(adjust=adjust)
        await join(plugin)
    answer = await plugins.create(*shown_container(), no_stage)
    assert [one.origin for one in answer.edits] == ["NRI 10-a", "NRI 20-b"]
    assert answer.orders == PluginOrders()


async def test_an_adjustment_that_changes_nothing_is_none(plugins: NriPlugins, join: Join) -> None:
    plugin = LabPlugin()
    plugin.answers["CreateContainer"] = pb.CreateContainerResponse(adjust=pb.ContainerAdjustment())
    await join(plugin)
    assert (await plugins.create(*shown_container(), no_stage)).edits == ()


async def test_two_plugins_that_set_the_same_are_both_named(plugins: NriPlugins, join: Join) -> None:
    for base, index in (("a", "10"), ("b", "20")):
        plugin = LabPlugin(base, index)
        adjust = pb.ContainerAdjustment(env=[pb.KeyValue(key="WHO", value=base)])
        plugin.answers["CreateContainer"] = pb.CreateContainerResponse(adjust=adjust)
        await join(plugin)
    with pytest.raises(PluginRefused, match=r'plugins "20-b" and "10-a" both tried to set .*WHO'):
        await plugins.create(*shown_container(), no_stage)


async def test_a_create_gives_updates_and_evictions_of_others(plugins: NriPlugins, join: Join) -> None:
    plugin = LabPlugin()
    update = pb.ContainerUpdate(container_id="other", ignore_failure=True)
    update.linux.resources.memory.limit.value = 1 << 20
    plugin.answers["CreateContainer"] = pb.CreateContainerResponse(
        update=[update], evict=[pb.ContainerEviction(container_id="third", reason="no room")]
    )
    await join(plugin)
    answer = await plugins.create(*shown_container(), no_stage)
    change = ResourceChange(memory_limit=1 << 20)
    assert answer.orders.updates == (ContainerUpdate("other", change, "10-lab", ignore_failure=True),)  # type: ignore[arg-type]
    assert answer.orders.evictions == (Eviction("third", "no room", "10-lab"),)  # type: ignore[arg-type]
    assert plugins.figures.updates.counts == {("10-lab",): 1}
    assert plugins.figures.evictions.counts == {("10-lab",): 1}


async def test_an_update_may_become_another_one(plugins: NriPlugins, join: Join) -> None:
    plugin = LabPlugin()
    update = pb.ContainerUpdate(container_id="ctr-web")
    update.linux.resources.memory.limit.value = 2 << 20
    plugin.answers["UpdateContainer"] = pb.UpdateContainerResponse(update=[update])
    await join(plugin)
    asked = ResourceChange(memory_limit=1 << 20)
    answer = await plugins.update(*shown_container(), asked, no_stage)
    assert answer.change is not None
    assert answer.change.memory_limit == 2 << 20
    request = await plugin.until_heard("UpdateContainer")
    assert request.linux_resources.memory.limit.value == 1 << 20


async def test_after_a_stop_the_wishes_of_one_plugin_count_though_another_fails(
    plugins: NriPlugins, join: Join
) -> None:
    first, second = LabPlugin("first", "10"), LabPlugin("second", "20")
    first.answers["StopContainer"] = failing()
    update = pb.ContainerUpdate(container_id="other")
    update.linux.resources.memory.limit.value = 1 << 20
    second.answers["StopContainer"] = pb.StopContainerResponse(update=[update])
    await join(first)
    await join(second)
    orders = await plugins.stop(*shown_container(), no_stage)
    assert [one.plugin for one in orders.updates] == ["20-second"]


async def test_a_validator_may_reject(plugins: NriPlugins, join: Join) -> None:
    plugin = LabPlugin("judge", "90")
    plugin.answers["ValidateContainerAdjustment"] = pb.ValidateContainerAdjustmentResponse(
        reject=True, reason="not here"
    )
    await join(plugin)
    with pytest.raises(PluginRefused, match="validator 90-judge rejects container ctr-web: not here"):
        await plugins.create(*shown_container(), no_stage)


@pytest.mark.parametrize("lacks", [True, False])
async def test_a_validator_that_does_not_judge_fails_the_create(
    lacks: bool, plugins: NriPlugins, join: Join
) -> None:
    plugin = LabPlugin("judge", "90")
    if lacks:
        plugin.lacks = {"ValidateContainerAdjustment"}
    else:
        plugin.raw["ValidateContainerAdjustment"] = b"\xff"
    await join(plugin)
    with pytest.raises(PluginRefused, match="90-judge"):
        await plugins.create(*shown_container(), no_stage)


def requiring(settings: NriSettings, *names: str) -> NriSettings:
    return replace(settings, validator=ValidatorSettings(enable=True, required_plugins=names))


async def test_without_a_required_plugin_no_container_is_made(begin: Begin, settings: NriSettings) -> None:
    plugins = await begin(requiring(settings, "policy"))
    assert plugins.present
    with pytest.raises(PluginRefused, match=r"ctr-web .*policy"):
        await plugins.create(*shown_container(), no_stage)


async def test_a_required_plugin_that_is_dropped_while_it_is_asked_has_not_seen_the_container(
    begin: Begin, settings: NriSettings, connected: list[LabPlugin]
) -> None:
    plugins = await begin(requiring(settings, "policy"))
    plugin = LabPlugin("policy")
    connected.append(plugin)
    await plugin.join(settings.socket)
    await ready(plugins)
    await plugins.create(*shown_container(), no_stage)
    held = plugin.answers["CreateContainer"] = Held(pb.CreateContainerResponse())
    plugins.limit = 0.2
    with pytest.raises(PluginRefused, match=r"ctr-web .*policy"):
        await plugins.create(*shown_container(), no_stage)
    held.go.set()


async def test_a_plugin_is_asked_one_thing_at_a_time_and_others_meanwhile(
    plugins: NriPlugins, join: Join
) -> None:
    first, second = LabPlugin("first", "10"), LabPlugin("second", "20")
    here, there = Held(pb.RunPodSandboxResponse()), Held(pb.RunPodSandboxResponse())
    first.answers["RunPodSandbox"], second.answers["RunPodSandbox"] = here, there
    await join(first)
    await join(second)
    async with bounded(), asyncio.TaskGroup() as group:
        for name in ("a", "b", "c"):
            group.create_task(plugins.pod(PodMoment.RUN, shown_pod(name), no_stage))
        await first.until_heard("RunPodSandbox")
        here.go.set()
        await second.until_heard("RunPodSandbox")
        await first.until_heard("RunPodSandbox", 3)  # while the second one is still at the first pod
        assert len(second.calls) == 1
        there.go.set()
    assert (here.most, there.most) == (1, 1)
    assert [request.pod.id for name, request in second.heard if name == "RunPodSandbox"] == [
        "pod-a",
        "pod-b",
        "pod-c",
    ]


async def test_the_connection_of_a_plugin_that_reads_nothing_is_closed_too(
    plugins: NriPlugins, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.backends.nri.link.CLOSE_SECONDS", 0.05)
    plugin = await join()
    descriptors = len(os.listdir("/proc/self/fd"))
    plugin.read_no_further()
    pod = shown_pod()
    large = replace(pod.record.config, annotations={"large": "x" * (2 << 20)})
    plugins.limit = 0.2
    await plugins.pod(PodMoment.RUN, replace(pod, record=replace(pod.record, config=large)), no_stage)
    await until(lambda: not plugins.statuses())
    await until(lambda: len(os.listdir("/proc/self/fd")) == descriptors - 1)


async def test_who_waits_for_a_plugin_that_hangs_does_not_wait_for_its_limit_once_more(
    begin: Begin, settings: NriSettings, connected: list[LabPlugin]
) -> None:
    plugins = await begin(replace(settings, request_timeout=0.2))
    plugin = LabPlugin()
    connected.append(plugin)
    held = plugin.answers["RunPodSandbox"] = Held(pb.RunPodSandboxResponse())
    await plugin.join(settings.socket)
    await ready(plugins)
    async with bounded(), asyncio.TaskGroup() as group:
        for number in range(200):  # with a limit for each this would take 40 s
            group.create_task(plugins.pod(PodMoment.RUN, shown_pod(str(number)), no_stage))
    held.go.set()
    assert len(plugin.calls) == 1


async def test_unasked_updates_and_evictions_are_carried_out(
    plugins: NriPlugins, join: Join, host: LabHost
) -> None:
    plugin = await join()
    good, bad = pb.ContainerUpdate(container_id="good"), pb.ContainerUpdate(container_id="bad")
    for one in (good, bad):
        one.linux.resources.memory.limit.value = 1 << 20
    host.failing["bad"] = "it has ended"  # type: ignore[index]
    request = pb.UpdateContainersRequest(
        update=[good, bad], evict=[pb.ContainerEviction(container_id="third", reason="too big")]
    )
    answer = await plugin.update(request)
    assert [one.container_id for one in answer.failed] == ["bad"]
    assert [one.container for one in host.updates] == ["good", "bad"]
    assert host.evictions == [Eviction("third", "too big", "10-lab")]  # type: ignore[arg-type]
    assert plugins.figures.updates.counts == {("10-lab",): 2}


async def test_a_failure_that_does_not_matter_to_the_plugin_is_not_told(join: Join, host: LabHost) -> None:
    plugin = await join()
    host.failing["bad"] = "it has ended"  # type: ignore[index]
    update = pb.ContainerUpdate(container_id="bad", ignore_failure=True)
    assert not (await plugin.update(pb.UpdateContainersRequest(update=[update]))).failed


async def test_all_plugins_hear_that_the_daemon_ends(
    begin: Begin, settings: NriSettings, connected: list[LabPlugin]
) -> None:
    plugins = await begin()
    plugin = LabPlugin()
    connected.append(plugin)
    await plugin.join(settings.socket)
    await ready(plugins)
    await plugins.close()
    assert plugin.calls == ["Shutdown"]
    await plugin.gone()


async def test_a_plugin_that_hangs_does_not_keep_the_daemon_from_ending(
    begin: Begin, settings: NriSettings, connected: list[LabPlugin], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.backends.nri.members.SHUTDOWN_SECONDS", 0.1)
    plugins = await begin()
    plugin = LabPlugin()
    connected.append(plugin)
    held = plugin.answers["Shutdown"] = Held(pb.Empty())
    await plugin.join(settings.socket)
    await ready(plugins)
    async with bounded():
        await plugins.close()
    held.go.set()
