"""A node without plugins: a socket, and the rest when the first one comes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.nri.awaited import AwaitedPlugins
from crib.model.nri_settings import NriSettings, ValidatorSettings
from crib.model.plugins import ContainerMoment, PodMoment
from crib.model.resource_change import ResourceChange
from crib.ports.plugins import PluginRefused
from tests.plugin_lab import (
    INSTALLED,
    LabHost,
    LabPlugin,
    bounded,
    no_stage,
    ready,
    shown_container,
    shown_pod,
)


@pytest.fixture
async def awaited(settings: NriSettings, host: LabHost) -> AsyncIterator[AwaitedPlugins]:
    made = AwaitedPlugins(settings)
    yield made
    await made.close()
    assert not os.path.exists(settings.socket)


async def test_the_first_plugin_is_taken_in_and_takes_part_as_do_others(
    awaited: AwaitedPlugins, settings: NriSettings, host: LabHost, connected: list[LabPlugin]
) -> None:
    await awaited.begin(host)
    assert not awaited.present
    assert list(awaited.statuses()) == []
    connected += [LabPlugin("first"), LabPlugin("second", "20")]
    for number, plugin in enumerate(connected, 1):
        await plugin.join(settings.socket)
        await ready(awaited, number)
    assert awaited.present
    async with bounded():
        await awaited.create(*shown_container(), no_stage)
    assert all("CreateContainer" in plugin.calls for plugin in connected)
    for plugin in connected:
        await plugin.close()
    await ready(awaited, 0)
    assert not awaited.present


async def test_two_that_come_at_once_find_one_and_the_same(
    awaited: AwaitedPlugins, settings: NriSettings, host: LabHost, connected: list[LabPlugin]
) -> None:
    await awaited.begin(host)
    connected += [LabPlugin("one"), LabPlugin("two")]
    for plugin in connected:
        await plugin.connect(settings.socket)
    for number, plugin in enumerate(connected, 1):
        await plugin.register()
        await ready(awaited, number)


async def test_rules_hold_without_any_plugin(settings: NriSettings, host: LabHost) -> None:
    rules = ValidatorSettings(enable=True, required_plugins=("topology",))
    awaited = AwaitedPlugins(replace(settings, validator=rules, disable_connections=True))
    await awaited.begin(host)
    assert awaited.present
    with pytest.raises(PluginRefused, match="topology"):
        await awaited.create(*shown_container(), no_stage)
    assert not os.path.exists(settings.socket)
    await awaited.close()


async def test_installed_plugins_are_seen_at_once(
    awaited: AwaitedPlugins, settings: NriSettings, host: LabHost
) -> None:
    Path(settings.plugin_dir).mkdir()
    program = Path(settings.plugin_dir) / "10-away"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    await awaited.begin(host)
    assert [one.name for one in awaited.statuses()] == ["10-away"]


async def test_an_installed_plugin_that_is_ready_takes_part_while_another_still_starts(
    awaited: AwaitedPlugins, settings: NriSettings, host: LabHost, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "never")
    texts = {
        "10-ready": INSTALLED.format(python=sys.executable),
        "20-slow": f"#!/bin/sh\nexec cat {tmp_path}/never\n",
    }
    Path(settings.plugin_dir).mkdir()
    for name, text in texts.items():
        program = Path(settings.plugin_dir) / name
        program.write_text(text)
        program.chmod(0o755)
    beginning = asyncio.ensure_future(awaited.begin(host))
    await ready(awaited)
    assert awaited.present
    assert not beginning.done(), "it still waits for the other one"
    beginning.cancel()
    await asyncio.wait([beginning])


async def test_a_plugin_that_is_installed_later_waits_for_the_next_start(
    awaited: AwaitedPlugins, settings: NriSettings, host: LabHost, connected: list[LabPlugin]
) -> None:
    await awaited.begin(host)
    program = Path(settings.plugin_dir) / "10-late"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    connected.append(LabPlugin("first"))
    await connected[0].join(settings.socket)
    await ready(awaited)
    assert [one.name for one in awaited.statuses()] == ["10-first"]


def test_what_speaks_with_plugins_is_not_imported_without_one(tmp_path: Path) -> None:
    program = f"""
        import asyncio, sys
        import crib.daemon
        from crib.backends.nri.awaited import AwaitedPlugins
        from crib.model.nri_settings import NriSettings

        class Host:
            def note(self, subject, text):
                assert not text, text

        async def main():
            plugins = AwaitedPlugins(NriSettings(socket="{tmp_path}/nri.sock", plugin_dir="{tmp_path}/none"))
            await plugins.begin(Host())
            await plugins.close()

        asyncio.run(main())
        print(*(name for name in sys.modules if "nri" in name.split(".") or "ttrpc" in name.split(".")))
        """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split()
    assert sorted(found) == ["crib.backends.nri", "crib.backends.nri.awaited", "crib.backends.nri.listening"]


async def test_a_pod_is_told_to_those_that_are_there(
    awaited: AwaitedPlugins, settings: NriSettings, host: LabHost, connected: list[LabPlugin]
) -> None:
    await awaited.begin(host)
    connected.append(LabPlugin())
    await connected[0].join(settings.socket)
    await ready(awaited)
    pod, container = shown_container()
    async with bounded():
        await awaited.pod(PodMoment.RUN, shown_pod(), no_stage)
        await awaited.container(ContainerMoment.START, pod, container, no_stage)
        await awaited.update(pod, container, ResourceChange(cpu_shares=5), no_stage)
        await awaited.stop(pod, container, no_stage)
    assert connected[0].calls == ["RunPodSandbox", "StartContainer", "UpdateContainer", "StopContainer"]
