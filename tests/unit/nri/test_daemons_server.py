"""Plugins of the library, connected to the server that the daemon has for them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib import nri
from crib.backends.nri.plugins import NriPlugins
from crib.model.ids import ContainerId
from crib.model.nri_settings import NriSettings
from crib.model.plugins import ContainerMoment, Eviction, PodMoment, ShownContainer, ShownNode
from crib.model.resource_change import ResourceChange
from crib.nri import running
from crib.ports.plugins import PluginRefused
from crib.tasks.groups import Beside
from tests.plugin_lab import LabHost, bounded, no_stage, ready, shown_container, shown_pod
from tests.unit.nri.lab import Everything

SEVERAL = 600
"""Containers, each with an environment of 8 KiB: more than fits into one message."""


@pytest.fixture
def host() -> LabHost:
    return LabHost()


@pytest.fixture
def settings(tmp_path: Path) -> NriSettings:
    return NriSettings(
        socket=str(tmp_path / "nri.sock"),
        registration_timeout=20.0,
        request_timeout=20.0,
        synchronize_timeout=20.0,
        plugin_dir=str(tmp_path / "plugins"),
        plugin_config_dir=str(tmp_path / "conf.d"),
    )


@pytest.fixture
async def plugins(settings: NriSettings, host: LabHost) -> AsyncIterator[NriPlugins]:
    made = NriPlugins(settings)
    await made.begin(host)
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def taking_part(
    plugins: NriPlugins, settings: NriSettings, *joining: nri.NodePlugin, reconnect: bool = False
) -> AsyncIterator[None]:
    async with bounded(), Beside() as beside:
        for number, plugin in enumerate(joining):
            identity = nri.PluginIdentity("own", f"{10 * (number + 1)}")
            options = nri.PluginOptions(identity, settings.socket, reconnect=reconnect)
            beside.start("plugin", nri.serve(plugin, options))
        await ready(plugins, len(joining))
        yield


async def test_a_plugin_takes_part_in_the_lives_of_pods_and_containers(
    plugins: NriPlugins, settings: NriSettings, host: LabHost
) -> None:
    plugin = Everything()
    pod, container = shown_container()
    host.node = ShownNode((pod,), (container,))
    async with taking_part(plugins, settings, plugin):
        assert plugin.told == [("configure", ""), ("synchronize", ["pod-web"], ["ctr-web"])]
        assert plugin.runtime.name == "crib"
        assert plugin.runtime.request_timeout == 20.0
        for moment in PodMoment:
            await plugins.pod(moment, shown_pod(), no_stage)
        for event in ContainerMoment:
            await plugins.container(event, pod, container, no_stage)
        assert {told[0] for told in plugin.told[2:]} == {
            *("run_pod_sandbox", "update_pod_sandbox", "post_update_pod_sandbox"),
            *("stop_pod_sandbox", "remove_pod_sandbox", "post_create_container", "start_container"),
            *("post_start_container", "post_update_container", "remove_container"),
        }
    assert [update.container for update in host.updates] == ["ctr-web"], "of the synchronization"


async def test_what_a_plugin_wants_is_taken_as_such(plugins: NriPlugins, settings: NriSettings) -> None:
    pod, container = shown_container()
    async with taking_part(plugins, settings, Everything()):
        answer = await plugins.create(pod, container, no_stage)
        assert [edits.env for edits in answer.edits] == [(("POD", "web"),)]
        assert [update.container for update in answer.orders.updates] == ["other"]
        assert answer.orders.evictions == (Eviction(ContainerId("third"), "it is in the way", "10-own"),)
        updated = await plugins.update(pod, container, ResourceChange(), no_stage)
        assert updated.orders.evictions[0].container == "third"
        stopped = await plugins.stop(pod, container, no_stage)
        assert [update.container for update in stopped.updates] == ["other"]


async def test_a_plugin_that_validates_refuses(plugins: NriPlugins, settings: NriSettings) -> None:
    plugin = Everything()
    plugin.rejects = "no variables here"
    pod, container = shown_container()
    async with taking_part(plugins, settings, plugin):
        with pytest.raises(PluginRefused, match="no variables here"):
            await plugins.create(pod, container, no_stage)


async def test_a_plugin_changes_and_evicts_containers_by_itself(
    plugins: NriPlugins, settings: NriSettings, host: LabHost
) -> None:
    plugin = Everything()
    async with taking_part(plugins, settings, plugin):
        changes = nri.ContainerChanges()
        changes.update("ctr-1").set_cpu(cpus="0")
        changes.update("ctr-2").set_memory(limit=1 << 20)
        changes.evict("ctr-3", "enough")
        host.failing[ContainerId("ctr-2")] = "it is gone"
        failed = await plugin.runtime.change_containers(changes)
    assert [one.container_id for one in failed] == ["ctr-2"]
    assert [one.container for one in host.updates] == ["ctr-1", "ctr-2"]
    assert [(one.container, one.reason) for one in host.evictions] == [("ctr-3", "enough")]


async def test_a_node_too_large_for_one_message_is_synchronized_in_parts(
    plugins: NriPlugins, settings: NriSettings, host: LabHost
) -> None:
    pod, container = shown_container()

    def numbered(number: int) -> ShownContainer:
        config = replace(container.record.config, args=("x" * 8192,))
        record = replace(container.record, id=ContainerId(f"ctr-{number}"), config=config)
        return ShownContainer(record)

    host.node = ShownNode((pod,), tuple(numbered(number) for number in range(SEVERAL)))
    plugin = Everything()
    async with taking_part(plugins, settings, plugin):
        assert plugin.told[1] == ("synchronize", ["pod-web"], [f"ctr-{number}" for number in range(SEVERAL)])


async def test_plugins_come_back_after_the_daemon_does(
    settings: NriSettings, host: LabHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "FIRST_PAUSE", 0.001)
    plugin = Everything()
    first = NriPlugins(settings)
    await first.begin(host)
    async with taking_part(first, settings, plugin, reconnect=True):
        await first.close()
        assert plugin.told[-1] == ("shutdown",)
        second = NriPlugins(settings)
        await second.begin(host)
        await ready(second)
        await second.pod(PodMoment.RUN, shown_pod(), no_stage)
        assert [told[0] for told in plugin.told][-1] == "run_pod_sandbox"
        await second.close()
