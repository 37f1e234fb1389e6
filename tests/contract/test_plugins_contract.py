"""Node plugins: those that speak NRI through a socket, and those that a test speaks for, behave alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

import pytest

from crib.backends.nri.awaited import AwaitedPlugins
from crib.backends.nri.plugins import NriPlugins
from crib.model.edits import ContainerEdits
from crib.model.ids import ContainerId
from crib.model.nri_settings import NriSettings
from crib.model.plugins import (
    ContainerMoment,
    ContainerUpdate,
    CreateAnswer,
    Eviction,
    PluginOrders,
    PodMoment,
    UpdateAnswer,
)
from crib.model.resource_change import ResourceChange
from crib.ports.plugins import NodePlugins, PluginRefused
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.ttrpc.errors import CallFailed
from crib.wire.rpc_codes import Code
from tests.fakes.plugins import FakePlugins
from tests.plugin_lab import LabHost, LabPlugin, no_stage, ready, shown_container, shown_pod

MIB = 1 << 20
OTHER = ContainerId("other")


class OnePlugin(Protocol):
    """All plugins of a node, which are one, `10-lab`; and what a test does with that."""

    plugins: NodePlugins

    async def come(self) -> None:
        """It is there from now on."""

    def refuse(self, moment: str, why: str) -> None:
        """It answers with an error."""

    def sets_a_variable(self) -> None:
        """In each container that is created, and evicts another one."""

    def wants(self, memory: int) -> None:
        """A container that is updated, or another one when one stops, shall have as much memory."""

    @property
    def heard(self) -> list[str]:
        """What it was asked and told."""


class FakeOne:
    def __init__(self) -> None:
        self.plugins = self._fake = FakePlugins()

    async def come(self) -> None:
        self._fake.present = True

    def refuse(self, moment: str, why: str) -> None:
        async def refuse() -> None:
            raise PluginRefused(f"plugin 10-lab failed in {moment}: {why}")

        self._fake.before[moment] = refuse

    def sets_a_variable(self) -> None:
        edits = ContainerEdits("NRI 10-lab", env=(("WHO", "lab"),))
        orders = PluginOrders(evictions=(Eviction(OTHER, "no room", "10-lab"),))
        self._fake.creates = CreateAnswer((edits,), orders)

    def wants(self, memory: int) -> None:
        change = ResourceChange(memory_limit=memory)
        self._fake.updates = UpdateAnswer(change)
        self._fake.stops = PluginOrders((ContainerUpdate(OTHER, change, "10-lab"),))

    @property
    def heard(self) -> list[str]:
        return self._fake.moments()


class RealOne:
    def __init__(self, plugins: NriPlugins | AwaitedPlugins, socket: str) -> None:
        self.plugins = plugins
        self._socket = socket
        self.plugin = LabPlugin(events=(1 << 13) - 1)  # it is no validator

    async def come(self) -> None:
        await self.plugin.join(self._socket)
        await ready(self.plugins)

    def refuse(self, moment: str, why: str) -> None:
        async def refuse(request: object) -> pb.Empty:
            raise CallFailed(Code.UNKNOWN, why)

        self.plugin.answers[moment] = refuse

    def sets_a_variable(self) -> None:
        self.plugin.answers["CreateContainer"] = pb.CreateContainerResponse(
            adjust=pb.ContainerAdjustment(env=[pb.KeyValue(key="WHO", value="lab")]),
            evict=[pb.ContainerEviction(container_id=OTHER, reason="no room")],
        )

    def wants(self, memory: int) -> None:
        own, other = pb.ContainerUpdate(container_id="ctr-web"), pb.ContainerUpdate(container_id=OTHER)
        for one in (own, other):
            one.linux.resources.memory.limit.value = memory
        self.plugin.answers["UpdateContainer"] = pb.UpdateContainerResponse(update=[own])
        self.plugin.answers["StopContainer"] = pb.StopContainerResponse(update=[other])

    @property
    def heard(self) -> list[str]:
        return self.plugin.calls


@pytest.fixture(params=["fake", "plugins", "awaited"])
async def one(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OnePlugin]:
    if request.param == "fake":
        yield cast(OnePlugin, FakeOne())
        return
    settings = NriSettings(
        socket=str(tmp_path / "nri.sock"), plugin_dir="", request_timeout=20, synchronize_timeout=20
    )
    plugins = NriPlugins(settings) if request.param == "plugins" else AwaitedPlugins(settings)
    await plugins.begin(LabHost())
    real = RealOne(plugins, settings.socket)
    yield cast(OnePlugin, real)
    await plugins.close()
    if real.heard or plugins.statuses():
        await real.plugin.close()


async def test_a_node_without_plugins_has_nobody_to_ask(one: OnePlugin) -> None:
    assert not one.plugins.present
    await one.come()
    assert one.plugins.present


async def test_every_moment_is_told_once_and_in_order(one: OnePlugin) -> None:
    await one.come()
    pod, container = shown_container()
    for moment in PodMoment:
        await one.plugins.pod(moment, pod, no_stage)
    for about in ContainerMoment:
        await one.plugins.container(about, pod, container, no_stage)
    assert one.heard == [*PodMoment, *ContainerMoment]


async def test_a_plugin_that_changes_nothing_answers_nothing(one: OnePlugin) -> None:
    await one.come()
    assert await one.plugins.create(*shown_container(), no_stage) == CreateAnswer()
    change = ResourceChange(memory_limit=MIB)
    assert await one.plugins.update(*shown_container(), change, no_stage) == UpdateAnswer()
    assert await one.plugins.stop(*shown_container(), no_stage) == PluginOrders()
    assert one.heard == ["CreateContainer", "UpdateContainer", "StopContainer"]


async def test_what_it_changes_in_a_container_has_its_name(one: OnePlugin) -> None:
    await one.come()
    one.sets_a_variable()
    answer = await one.plugins.create(*shown_container(), no_stage)
    assert answer.edits == (ContainerEdits("NRI 10-lab", env=(("WHO", "lab"),)),)
    assert answer.orders.evictions == (Eviction(OTHER, "no room", "10-lab"),)


async def test_what_it_wants_other_limits_for_has_its_name(one: OnePlugin) -> None:
    await one.come()
    one.wants(2 * MIB)
    change = ResourceChange(memory_limit=MIB)
    answer = await one.plugins.update(*shown_container(), change, no_stage)
    assert answer.change == ResourceChange(memory_limit=2 * MIB)
    orders = await one.plugins.stop(*shown_container(), no_stage)
    assert orders.updates == (ContainerUpdate(OTHER, ResourceChange(memory_limit=2 * MIB), "10-lab"),)


@pytest.mark.parametrize("moment", ["RunPodSandbox", "CreateContainer", "StartContainer", "UpdateContainer"])
async def test_what_it_refuses_names_it_and_the_moment(moment: str, one: OnePlugin) -> None:
    await one.come()
    one.refuse(moment, "no room")
    pod, container = shown_container()
    change = ResourceChange(memory_limit=MIB)
    asked = {
        "RunPodSandbox": lambda: one.plugins.pod(PodMoment.RUN, pod, no_stage),
        "CreateContainer": lambda: one.plugins.create(pod, container, no_stage),
        "StartContainer": lambda: one.plugins.container(ContainerMoment.START, pod, container, no_stage),
        "UpdateContainer": lambda: one.plugins.update(pod, container, change, no_stage),
    }
    with pytest.raises(PluginRefused, match=f"10-lab failed in {moment}.*no room"):
        await asked[moment]()
    assert one.plugins.present


async def test_each_call_is_a_stage_of_the_pods_timeline(one: OnePlugin) -> None:
    stages: list[tuple[str, str]] = []

    @contextmanager
    def stage(name: str, subject: str) -> Iterator[None]:
        yield
        stages.append((name, subject))

    await one.come()
    await one.plugins.pod(PodMoment.RUN, shown_pod(), stage)  # type: ignore[arg-type]  # as it comes
    await one.plugins.create(*shown_container(), stage)  # type: ignore[arg-type]  # as it comes
    ((first, moment), (_, second)) = stages
    assert first.startswith("NRI 10-")
    assert (moment, second) == ("RunPodSandbox", "CreateContainer")
