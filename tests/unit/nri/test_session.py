"""A plugin and a runtime over a real socket: from the registration to the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from pathlib import Path

import pytest

from crib import nri
from crib.nri import messages, running
from crib.nri.calls import TOLD
from crib.nri.plugin import EVENTS, events_of, mask_of
from crib.ttrpc import server as server_module
from crib.ttrpc.errors import CallFailed, CallTimedOut
from crib.wire.rpc_codes import Code
from tests.unit.nri.lab import IDENTITY, Everything, joined, running_plugin

POD = messages.PodSandbox(id="p1", name="web", annotations={"a": "b"})
CONTAINER = messages.Container(id="c1", pod_sandbox_id="p1", name="main")
LIMITS = messages.LinuxResources(pids=messages.LinuxPids(limit=5))


# registration and configuration


async def test_a_plugin_registers_and_is_subscribed_to_the_methods_that_it_defines(tmp_path: Path) -> None:
    plugin = Everything()
    async with running_plugin(plugin, tmp_path) as (runtime, _):
        found = await runtime.joined()
        answer = await found.configure("its configuration")
        assert found.registration == messages.RegisterPluginRequest(
            plugin_name="pin", plugin_idx="10", NRI_version="v0.12.0"
        )
        assert answer.events == (1 << (messages.LAST - 1)) - 1, "all events, each at its bit"
        assert plugin.told == [("configure", "its configuration")]
        about = plugin.runtime
        assert (about.name, about.version, about.nri_version) == ("fake", "1.0", "v0.12.0")
        assert (about.registration_timeout, about.request_timeout) == (5.0, 2.5)
        assert await found.configure("another") == answer, "a runtime may configure again"


def test_each_event_of_the_interface_has_a_method() -> None:
    numbers = set(messages.Event.values()) - {messages.UNKNOWN, messages.LAST}
    assert set(EVENTS.values()) == numbers
    assert events_of(Everything()) == numbers


def test_only_methods_that_are_defined_are_subscribed_to() -> None:
    class Some(nri.NodePlugin):
        async def stop_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            pass

    class More(Some):
        async def start_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
            pass

    assert mask_of(events_of(More())) == 0b100010


async def test_a_plugin_without_an_event_does_not_start(tmp_path: Path) -> None:
    """To a runtime a subscription to nothing is one to everything."""
    with pytest.raises(nri.NriError, match="NodePlugin defines no method for an event"):
        await nri.serve(nri.NodePlugin(), nri.PluginOptions(IDENTITY, str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("chosen", "mask", "reason"),
    [
        ([messages.CREATE_CONTAINER], 0b1000, ""),
        ([], 0, "chose no event"),
        ([messages.LAST], 0, "no method for: LAST"),
    ],
)
async def test_a_plugin_may_choose_fewer_events(
    chosen: Collection[messages.Event.ValueType],
    mask: int,
    reason: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, server_module.__name__)

    class Choosing(Everything):
        async def configure(self, config: str) -> Collection[messages.Event.ValueType]:  # type: ignore[override]  # it returns some
            return chosen

    async with running_plugin(Choosing(), tmp_path) as (runtime, serving):
        found = await runtime.joined()
        if not reason:
            assert (await found.configure()).events == mask
            return
        with pytest.raises(CallFailed, match=reason):
            await found.configure()
        with pytest.raises(nri.NriError, match="10-pin failed to be configured: .*" + reason):
            await serving


async def test_a_plugin_that_is_not_registered_ends_with_the_runtimes_reason(tmp_path: Path) -> None:
    async with running_plugin(Everything(), tmp_path) as (runtime, serving):
        runtime.refuses = "no such plugins here"
        with pytest.raises(nri.NriError, match="did not register 10-pin: no such plugins here"):
            await serving


async def test_a_runtime_that_does_not_listen_is_an_error(tmp_path: Path) -> None:
    options = nri.PluginOptions(IDENTITY, str(tmp_path / "none.sock"))
    with pytest.raises(nri.NriError, match=r"cannot connect to the runtime at .*none\.sock: No such file"):
        await nri.serve(Everything(), options)


async def test_a_runtime_that_goes_without_configuring_is_told_of(tmp_path: Path) -> None:
    async with running_plugin(Everything(), tmp_path) as (runtime, serving):
        found = await runtime.joined()
        await found.registered.wait()
        found.carrier.close()
        with pytest.raises(nri.NriError, match=r"did not (configure|register) 10-pin: the peer closed"):
            await serving


# events


async def test_pods_and_containers_are_synchronized_in_parts(tmp_path: Path) -> None:
    plugin = Everything()
    async with joined(plugin, tmp_path) as runtime:
        part = await runtime.synchronize([POD], [], more=True)
        assert part == messages.SynchronizeResponse(more=True)
        assert await runtime.synchronize([], [CONTAINER], more=True) == part
        second = messages.Container(id="c2")
        last = await runtime.synchronize([messages.PodSandbox(id="p2")], [second])
        assert [update.container_id for update in last.update] == ["c1", "c2"]
        assert not last.more
        assert plugin.told[-1] == ("synchronize", ["p1", "p2"], ["c1", "c2"])
        await runtime.synchronize([], [])
        assert plugin.told[-1] == ("synchronize", [], []), "nothing of the time before is kept"


@pytest.mark.parametrize("call", TOLD)
async def test_an_event_reaches_its_method(call: str, tmp_path: Path) -> None:
    plugin = Everything()
    question, method = TOLD[call]
    about = {"pod": POD} if method.endswith("_pod_sandbox") else {"pod": POD, "container": CONTAINER}
    async with joined(plugin, tmp_path) as runtime:
        assert await runtime.ask(call, question(**about), messages.Empty) == messages.Empty()
        assert plugin.told[-1] == (method, *about.values())
        event = messages.StateChangeEvent(event=EVENTS[method], **about)
        await runtime.ask("StateChange", event, messages.Empty)
        assert plugin.told[-1] == (method, *about.values())
        assert len(plugin.told) == 3


async def test_an_event_that_a_plugin_cannot_be_told_is_passed_over(tmp_path: Path) -> None:
    plugin = Everything()
    async with joined(plugin, tmp_path) as runtime:
        for number in (messages.CREATE_CONTAINER, messages.UNKNOWN, 99):
            event = messages.StateChangeEvent(event=number, pod=POD)  # type: ignore[arg-type]  # also one of later versions
            await runtime.ask("StateChange", event, messages.Empty)
        assert plugin.told == [("configure", "")]


async def test_a_pods_new_limits_are_told(tmp_path: Path) -> None:
    plugin = Everything()
    request = messages.UpdatePodSandboxRequest(pod=POD, linux_resources=LIMITS)
    async with joined(plugin, tmp_path) as runtime:
        await runtime.ask("UpdatePodSandbox", request, messages.UpdatePodSandboxResponse)
        assert plugin.told[-1] == ("update_pod_sandbox", POD, messages.LinuxResources(), LIMITS)


async def test_what_a_plugin_wants_is_its_answer(tmp_path: Path) -> None:
    async with joined(Everything(), tmp_path) as runtime:
        eviction = messages.ContainerEviction(container_id="third", reason="it is in the way")
        creating = messages.CreateContainerRequest(pod=POD, container=CONTAINER)
        created = await runtime.ask("CreateContainer", creating, messages.CreateContainerResponse)
        assert created.adjust.env == [messages.KeyValue(key="POD", value="web")]
        assert created.update[0].linux.resources.pids.limit == 9
        assert created.evict == [eviction]
        updating = messages.UpdateContainerRequest(pod=POD, container=CONTAINER, linux_resources=LIMITS)
        updated = await runtime.ask("UpdateContainer", updating, messages.UpdateContainerResponse)
        assert updated.update[0].linux.resources.pids.limit == 6
        assert updated.evict == [eviction]
        stopping = messages.StopContainerRequest(pod=POD, container=CONTAINER)
        stopped = await runtime.ask("StopContainer", stopping, messages.StopContainerResponse)
        assert stopped.update[0].linux.resources.cpu.cpus == "0-1"


async def test_a_plugin_validates_what_others_want(tmp_path: Path) -> None:
    plugin = Everything()
    request = messages.ValidateContainerAdjustmentRequest(pod=POD, container=CONTAINER)
    kind = messages.ValidateContainerAdjustmentResponse
    async with joined(plugin, tmp_path) as runtime:
        assert await runtime.ask("ValidateContainerAdjustment", request, kind) == kind()
        plugin.rejects = "no hooks here"
        answer = await runtime.ask("ValidateContainerAdjustment", request, kind)
        assert answer == kind(reject=True, reason="no hooks here")


async def test_an_exception_is_the_answer_and_the_plugin_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Everything):
        async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            raise ValueError("this pod is odd")

    plugin = Failing()
    request = messages.RunPodSandboxRequest(pod=POD)
    async with joined(plugin, tmp_path) as runtime:
        with pytest.raises(CallFailed, match="ValueError: this pod is odd") as failed:
            await runtime.ask("RunPodSandbox", request, messages.RunPodSandboxResponse)
        assert failed.value.code == Code.UNKNOWN
        await runtime.synchronize([POD], [])
    assert "this pod is odd" in caplog.text, "the plugin's log has the traceback"


async def test_a_method_is_cancelled_when_the_runtime_waits_no_longer(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    class Slow(Everything):
        async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    async with joined(Slow(), tmp_path) as runtime:
        request = messages.RunPodSandboxRequest(pod=POD)
        with pytest.raises(CallTimedOut):
            await runtime.ask("RunPodSandbox", request, messages.RunPodSandboxResponse, 0.02)
        await cancelled.wait()


async def test_a_plugin_changes_containers_by_itself(tmp_path: Path) -> None:
    plugin = Everything()
    async with running_plugin(plugin, tmp_path) as (runtime, _):
        runtime.failed = [messages.ContainerUpdate(container_id="c2")]
        found = await runtime.joined()
        await found.configure()
        changes = nri.ContainerChanges()
        changes.update("c1").set_cpu(cpus="0")
        changes.evict("c3", "enough")
        failed = await plugin.runtime.change_containers(changes)
        assert [one.container_id for one in failed] == ["c2"]
        (request,) = found.updates
        assert [one.container_id for one in request.update] == ["c1"]
        assert [(one.container_id, one.reason) for one in request.evict] == [("c3", "enough")]


# the end


async def test_a_plugin_ends_well_after_its_runtime_has_said_so(tmp_path: Path) -> None:
    plugin = Everything()
    async with running_plugin(plugin, tmp_path) as (runtime, serving):
        found = await runtime.joined()
        await found.configure()
        await found.shut_down()
        await serving
    assert plugin.told[-1] == ("shutdown",)


async def test_a_plugin_whose_runtime_dies_ends_with_an_error(tmp_path: Path) -> None:
    async with running_plugin(Everything(), tmp_path) as (runtime, serving):
        found = await runtime.joined()
        await found.configure()
        await found.synchronize([], [])
        found.carrier.abort("killed")
        with pytest.raises(nri.NriError, match="the runtime is gone: "):
            await serving


async def test_a_plugin_that_is_to_reconnect_does_so_and_is_synchronized_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running, "FIRST_PAUSE", 0.001)
    plugin = Everything()
    async with running_plugin(plugin, tmp_path, reconnect=True) as (runtime, serving):
        runtime.refuses = "not yet"
        await (await runtime.joined()).gone()
        await (await runtime.joined()).gone()
        runtime.refuses = ""
        while "configure" not in {told[0] for told in plugin.told}:
            found = await runtime.joined()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):  # one that came before it would be accepted never registers
                    await found.configure()
        await found.synchronize([POD], [])
        found.carrier.abort("killed")
        found = await runtime.joined()
        await found.configure()
        await found.synchronize([], [CONTAINER])
        await found.shut_down()
        await (await runtime.joined()).configure()
        assert not serving.done()
    assert [told[0] for told in plugin.told].count("synchronize") == 2
    for pause in (0.001, 0.002):
        assert f"the runtime did not register 10-pin: not yet; next try in {pause} s" in caplog.text
