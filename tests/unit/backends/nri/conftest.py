"""Plugins' side and the verbs' side of the real port, joined by a real socket."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from crib.backends.nri.plugins import NriPlugins
from crib.model.nri_settings import NriSettings
from tests.plugin_lab import Begin, Join, LabHost, LabPlugin, ready, until


@pytest.fixture
def settings(tmp_path: Path) -> NriSettings:
    """With limits that nothing here reaches, unless a test sets another one."""
    return NriSettings(
        socket=str(tmp_path / "nri" / "nri.sock"),
        plugin_dir=str(tmp_path / "plugins"),
        plugin_config_dir=str(tmp_path / "conf.d"),
        registration_timeout=20.0,
        request_timeout=20.0,
        synchronize_timeout=20.0,
    )


@pytest.fixture
def host() -> LabHost:
    return LabHost()


def _only_installed(plugins: NriPlugins) -> bool:
    return all(one.installed for one in plugins.statuses())


@pytest.fixture
async def begin(settings: NriSettings, host: LabHost) -> AsyncIterator[Begin]:
    """Begins with these settings, or with others; at its end nothing is left."""
    begun: list[NriPlugins] = []

    async def begin(settings: NriSettings = settings) -> NriPlugins:
        plugins = NriPlugins(settings)
        begun.append(plugins)
        await plugins.begin(host)
        return plugins

    descriptors = len(os.listdir("/proc/self/fd"))
    yield begin
    for plugins in begun:
        await plugins.close()
        await until(partial(_only_installed, plugins))
    assert not os.path.exists(settings.socket)
    # fewer, where what an earlier test had left to the collector of garbage went meanwhile
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.fixture
async def plugins(begin: Begin) -> NriPlugins:
    return await begin()


@pytest.fixture
async def connected() -> AsyncIterator[list[LabPlugin]]:
    """Those of the test, to be closed at its end."""
    made: list[LabPlugin] = []
    yield made
    for plugin in made:
        await plugin.close()


@pytest.fixture
async def join(plugins: NriPlugins, settings: NriSettings, connected: list[LabPlugin]) -> Join:
    """Has a plugin take part."""

    async def join(plugin: LabPlugin | None = None) -> LabPlugin:
        plugin = plugin or LabPlugin()
        connected.append(plugin)
        await plugin.join(settings.socket)
        await ready(plugins, len(connected))
        return plugin

    return join
