"""How a plugin comes to take part, and all the ways in which it does not."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from typing import Any

import pytest

from crib import __version__
from crib.backends.nri import synchronizing
from crib.backends.nri.plugins import NriPlugins
from crib.model.nri_settings import NriSettings
from crib.model.plugin_status import PluginState
from crib.model.plugins import ContainerUpdate, PodMoment, ShownNode
from crib.model.resource_change import ResourceChange
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.ttrpc.errors import CallFailed
from crib.wire.rpc_codes import Code
from tests.plugin_lab import (
    Begin,
    LabHost,
    LabPlugin,
    bounded,
    no_stage,
    ready,
    shown_container,
    shown_pod,
    until,
)

GARBAGE = {
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "a frame that is too long": b"\0\0\0\2\xff\xff\xff\xff",
    "no ttrpc": b"\0\0\0\2\0\0\0\x0a\xff\xff\xff\xff\0\0\0\1\1\0",
    "an answer that nobody asked for": b"\0\0\0\1\0\0\0\x0a\0\0\0\0\0\0\0\x63\2\0",
}
STEPS = ("connected", "RegisterPlugin", "Configure", "Synchronize", "ready")


@pytest.fixture
def plugin(connected: list[LabPlugin]) -> LabPlugin:
    made = LabPlugin()
    connected.append(made)
    return made


async def _fail(request: Any) -> Any:
    raise CallFailed(Code.UNKNOWN, "no")


async def nobody(plugins: NriPlugins) -> None:
    """None is connected any more."""
    await until(lambda: not plugins.statuses())


@pytest.mark.parametrize("step", STEPS)
async def test_a_connection_may_be_cut_at_every_step(
    step: str, plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings, host: LabHost
) -> None:
    cut = asyncio.Event()

    async def cutting(request: Any) -> Any:
        plugin.end.shutdown(socket.SHUT_RDWR)
        cut.set()
        return pb.Empty()

    plugin.answers[step] = cutting
    await plugin.connect(settings.socket)
    if step == "connected":
        plugin.end.shutdown(socket.SHUT_RDWR)
    elif step == "RegisterPlugin":
        register = asyncio.get_running_loop().create_task(plugin.register())
        await asyncio.sleep(0)  # the request is on its way
        plugin.end.shutdown(socket.SHUT_RDWR)
        await asyncio.wait([register])
        register.exception()
    else:
        await plugin.register()
        if step == "ready":
            await ready(plugins)
            plugin.end.shutdown(socket.SHUT_RDWR)
        else:
            async with bounded():
                await cut.wait()
    await nobody(plugins)
    assert not host.is_alone
    assert not plugins.present
    again = LabPlugin()
    await again.join(settings.socket)
    await ready(plugins)
    await again.close()


async def test_a_plugin_is_told_who_it_talks_to_and_its_limits(
    plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings
) -> None:
    await plugin.join(settings.socket)
    request = await plugin.until_heard("Configure")
    assert (request.runtime_name, request.runtime_version, request.config) == ("crib", __version__, "")
    assert (request.registration_timeout, request.request_timeout) == (20_000, 20_000)
    assert request.NRI_version.startswith("v0.")


@pytest.mark.parametrize(
    ("index", "base", "problem"),
    [("1", "a", "plugin_idx"), ("10", "a/b", "plugin_name"), ("10", "", "plugin_name")],
)
async def test_a_bad_name_is_refused_and_the_plugin_is_sent_away(
    index: str, base: str, problem: str, plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings
) -> None:
    plugin.index, plugin.base = index, base
    await plugin.connect(settings.socket)
    with pytest.raises(CallFailed, match=problem) as failed:
        await plugin.register()
    assert failed.value.code == Code.INVALID_ARGUMENT
    await plugin.gone()
    await nobody(plugins)


async def test_who_registers_twice_is_sent_away(
    plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings, host: LabHost
) -> None:
    await plugin.join(settings.socket)
    await ready(plugins)
    with pytest.raises(CallFailed, match="it cannot become registered while it is ready"):
        await plugin.register()
    await plugin.gone()
    await until(lambda: host.notes)
    assert "has not come back" in host.notes["NRI plugin 10-lab"]


async def test_who_does_not_register_in_time_is_sent_away(
    begin: Begin, settings: NriSettings, plugin: LabPlugin
) -> None:
    plugins = await begin(replace(settings, registration_timeout=0.2))
    await plugin.connect(settings.socket)
    await plugin.gone()
    await nobody(plugins)


@pytest.mark.parametrize(
    "answer", [pb.ConfigureResponse(events=1 << 20), CallFailed(Code.UNKNOWN, "bad configuration")]
)
async def test_who_cannot_be_configured_is_sent_away(
    answer: Any, plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings, host: LabHost
) -> None:
    async def configure(request: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    plugin.answers["Configure"] = configure
    await plugin.connect(settings.socket)
    await plugin.register()
    await plugin.gone()
    await until(lambda: host.notes)
    assert "Configure: " in host.notes["NRI plugin 10-lab"]
    assert host.alones == 0


async def test_who_cannot_be_synchronized_is_sent_away(
    plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings, host: LabHost
) -> None:
    plugin.answers["Synchronize"] = _fail
    await plugin.join(settings.socket)
    await plugin.gone()
    await until(lambda: host.notes)
    assert not host.is_alone
    assert not plugins.present


async def test_a_synchronization_has_a_limit_of_its_own(
    begin: Begin, settings: NriSettings, plugin: LabPlugin, host: LabHost
) -> None:
    plugins = await begin(replace(settings, synchronize_timeout=0.3, request_timeout=0.1))
    never = asyncio.Event()

    async def hang(request: Any) -> Any:
        await never.wait()

    plugin.answers["Synchronize"] = hang
    await plugin.connect(settings.socket)
    await plugin.register()
    await plugin.gone()
    await nobody(plugins)
    assert (host.alones, host.is_alone) == (1, False)
    assert "did not answer Synchronize within 0.3 s" in host.notes["NRI plugin 10-lab"]


async def test_what_it_wants_at_its_synchronization_is_done_when_others_may_go_on(
    plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings, host: LabHost
) -> None:
    update = pb.ContainerUpdate(container_id="ctr-a")
    update.linux.resources.memory.limit.value = 1 << 20
    plugin.answers["Synchronize"] = pb.SynchronizeResponse(update=[update])
    pod, container = shown_container("a")
    host.node = ShownNode((pod,), (container,))
    await plugin.join(settings.socket)
    await until(lambda: host.updates)
    change = ResourceChange(memory_limit=1 << 20)
    assert host.updates == [ContainerUpdate(container.record.id, change, "10-lab")]
    request = await plugin.until_heard("Synchronize")
    assert [one.id for one in request.pods] == ["pod-a"]
    assert [one.id for one in request.containers] == ["ctr-a"]
    assert plugins.figures.updates.counts == {("10-lab",): 1}


async def test_it_takes_part_before_anything_is_made_again(
    plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings, host: LabHost
) -> None:
    """What is made right after the synchronization is told."""
    seen = []
    host.on_end = lambda: seen.append([one.state for one in plugins.statuses()])
    await plugin.join(settings.socket)
    await ready(plugins)
    assert seen == [[PluginState.READY]]


async def test_who_calls_while_it_is_synchronized_is_answered_afterwards(
    plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings, host: LabHost
) -> None:
    asked: list[asyncio.Task[Any]] = []

    async def synchronize(request: Any) -> Any:
        asked.append(asyncio.get_running_loop().create_task(plugin.update(wanted)))
        await asyncio.sleep(0)  # the request is on its way before the answer
        return pb.SynchronizeResponse()

    wanted = pb.UpdateContainersRequest(evict=[pb.ContainerEviction(container_id="x")])
    plugin.answers["Synchronize"] = synchronize
    await plugin.join(settings.socket)
    await ready(plugins)
    async with bounded():
        await asked[0]
    assert [one.container for one in host.evictions] == ["x"]


async def test_who_asks_for_changes_and_never_registers_gets_nothing(
    begin: Begin, settings: NriSettings, plugin: LabPlugin, host: LabHost
) -> None:
    await begin(replace(settings, registration_timeout=0.2))
    await plugin.connect(settings.socket)
    with pytest.raises((CallFailed, ConnectionError)):  # it is sent away meanwhile
        await plugin.update(pb.UpdateContainersRequest(evict=[pb.ContainerEviction(container_id="x")]))
    assert not host.evictions


async def test_a_thousand_pods_are_told_in_parts(
    plugins: NriPlugins,
    plugin: LabPlugin,
    settings: NriSettings,
    host: LabHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(synchronizing, "PART_BYTES", 64 << 10)
    shown = [shown_container(str(number)) for number in range(1000)]
    host.node = ShownNode(tuple(pod for pod, _ in shown), tuple(one for _, one in shown))
    await plugin.join(settings.socket)
    await ready(plugins)
    requests = [request for name, request in plugin.heard if name == "Synchronize"]
    assert len(requests) > 3
    assert [one.more for one in requests] == [*[True] * (len(requests) - 1), False]
    assert [pod.id for one in requests for pod in one.pods] == [f"pod-{number}" for number in range(1000)]
    containers = [container.id for one in requests for container in one.containers]
    assert containers == [f"ctr-{number}" for number in range(1000)]
    assert host.alones == 1


async def test_who_takes_no_parts_is_sent_away(
    plugins: NriPlugins,
    plugin: LabPlugin,
    settings: NriSettings,
    host: LabHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(synchronizing, "PART_BYTES", 1)
    plugin.answers["Synchronize"] = pb.SynchronizeResponse()
    host.node = ShownNode((shown_pod("a"), shown_pod("b")), ())
    await plugin.join(settings.socket)
    await plugin.gone()
    await until(lambda: host.notes)
    assert "in parts" in host.notes["NRI plugin 10-lab"]


async def test_it_is_tried_again_while_something_takes_too_long_to_be_made(
    plugins: NriPlugins,
    plugin: LabPlugin,
    settings: NriSettings,
    host: LabHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("crib.backends.nri.joining.FIRST_PAUSE", 0.01)
    host.busy = 3
    await plugin.join(settings.socket)
    await ready(plugins)
    assert host.alones == 1
    assert ("NRI plugin 10-lab", "it is not synchronized yet: something is being made") in host.noted
    assert host.notes == {}


async def test_one_that_goes_while_it_waits_for_that_leaves_no_warning(
    plugins: NriPlugins, plugin: LabPlugin, settings: NriSettings, host: LabHost
) -> None:
    host.busy = 1  # and it waits for seconds then
    await plugin.connect(settings.socket)
    await plugin.register()
    await until(lambda: host.notes)
    plugin.end.shutdown(socket.SHUT_RDWR)
    await nobody(plugins)
    assert host.notes == {}


async def test_one_that_was_dropped_in_its_synchronization_does_not_close_the_node_again_at_once(
    plugins: NriPlugins,
    settings: NriSettings,
    connected: list[LabPlugin],
    host: LabHost,
    caplog: pytest.LogCaptureFixture,
) -> None:
    connected += [LabPlugin(), LabPlugin(), LabPlugin("other")]
    first, again, other = connected
    first.answers["Synchronize"] = _fail
    await first.join(settings.socket)
    await nobody(plugins)
    await again.connect(settings.socket)
    await again.register()
    await until(lambda: "10-lab, which was dropped in Synchronize, waits" in caplog.text)
    await other.join(settings.socket)
    await ready(plugins)
    assert host.alones == 2, "for the first and the other one"
    assert [one.name for one in plugins.statuses()] == ["10-other", "10-lab"]
    await again.close()
    await until(lambda: len(plugins.statuses()) == 1)


async def test_its_wait_doubles_and_ends_when_it_has_been_synchronized(
    plugins: NriPlugins,
    settings: NriSettings,
    connected: list[LabPlugin],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("crib.backends.nri.joining.FIRST_AWAY", 0.01)
    for is_well in (False, False, True, True):
        plugin = LabPlugin()
        connected.append(plugin)
        if not is_well:
            plugin.answers["Synchronize"] = _fail
        await plugin.join(settings.socket)
        if is_well:
            await ready(plugins)
            await plugin.close()
        await nobody(plugins)
    told: list[Any] = [one.args for one in caplog.records if "dropped in Synchronize" in one.msg]
    waits = [args[1] for args in told if args]
    assert waits == [0.01, 0.02]


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("joined", [False, True])
async def test_garbage_costs_a_plugin_its_connection_and_nobody_else(
    joined: bool, kind: str, plugins: NriPlugins, settings: NriSettings, connected: list[LabPlugin]
) -> None:
    other, plugin = LabPlugin("other", "20"), LabPlugin("odd", "10")
    connected += [other, plugin]
    await other.join(settings.socket)
    await ready(plugins)
    await (plugin.join if joined else plugin.connect)(settings.socket)
    if joined:
        await ready(plugins, 2)
    plugin.send_raw(GARBAGE[kind])
    plugin.end.shutdown(socket.SHUT_WR)
    await plugin.gone()
    await until(lambda: len(plugins.statuses()) == 1)
    assert sum(plugins.figures.dropped.counts.values()) == 1
    await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
    assert other.calls == ["RunPodSandbox"]


async def test_a_flood_of_requests_is_answered_or_cut_off_and_hurts_nobody(
    plugins: NriPlugins, settings: NriSettings, connected: list[LabPlugin]
) -> None:
    other, flood = LabPlugin("other", "20"), LabPlugin("flood", "10")
    connected += [other, flood]
    for number, plugin in enumerate(connected, 1):
        await plugin.join(settings.socket)
        await ready(plugins, number)
    request = pb.UpdateContainersRequest(evict=[pb.ContainerEviction(container_id="x")] * 100)
    async with bounded(), asyncio.TaskGroup() as group:
        for _ in range(500):
            group.create_task(flood.update(request))
        await plugins.pod(PodMoment.STOP, shown_pod(), no_stage)
    assert other.calls == ["StopPodSandbox"]


async def test_two_of_one_name_both_take_part_and_the_log_says_so(
    plugins: NriPlugins,
    settings: NriSettings,
    connected: list[LabPlugin],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number in range(1, 3):
        plugin = LabPlugin()
        connected.append(plugin)
        await plugin.join(settings.socket)
        await ready(plugins, number)
    assert f"several NRI plugins are called 10-lab: pids {os.getpid()}, {os.getpid()}" in caplog.text
    await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
    assert [one.calls for one in connected] == [["RunPodSandbox"]] * 2


async def test_there_are_not_more_connections_than_allowed(
    plugins: NriPlugins,
    settings: NriSettings,
    connected: list[LabPlugin],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("crib.backends.nri.members.MOST_CONNECTIONS", 2)
    for number in range(2):
        plugin = LabPlugin("lab", f"1{number}")
        connected.append(plugin)
        await plugin.join(settings.socket)
        await ready(plugins, number + 1)
    beyond = LabPlugin()
    connected.append(beyond)
    await beyond.connect(settings.socket)
    await beyond.gone()
    assert len(plugins.statuses()) == 2
