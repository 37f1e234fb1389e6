"""The port `NodePlugins` of a node that has no plugin yet: a socket, and nothing else of it in memory.

Most nodes never have one, and what speaks with plugins takes more memory than a pod. It is imported when the
first one connects, or at once where plugins are installed or a validator has rules of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from crib.backends.nri.listening import PluginSocket
from crib.host.threads import FOREIGN, OURS, Job
from crib.model.nri_settings import NriSettings
from crib.model.plugin_status import PluginFigures, PluginStatus
from crib.model.plugins import (
    ContainerMoment,
    CreateAnswer,
    PluginOrders,
    PodMoment,
    ShownContainer,
    ShownPod,
    UpdateAnswer,
)
from crib.model.resource_change import ResourceChange
from crib.ports.clocks import StageTimer
from crib.ports.plugins import PluginHost
from crib.tasks.keeper import HANDS

if TYPE_CHECKING:
    from crib.backends.nri.plugins import NriPlugins

LOOK_SECONDS = 5.0
"""For a look into the directory of installed plugins."""
SOCKET = "NRI socket"
"""Subject of notices."""


class AwaitedPlugins:
    """See NodePlugins."""

    def __init__(self, settings: NriSettings) -> None:
        self._settings = settings
        self.figures = PluginFigures()
        self._whole: NriPlugins | None = None
        self._becoming = asyncio.Lock()
        self._socket: PluginSocket | None = None
        self._host: PluginHost

    @property
    def present(self) -> bool:
        """See NodePlugins."""
        return self._whole is not None and self._whole.present

    def hears(self, call: str) -> bool:
        """See NodePlugins."""
        return self._whole is not None and self._whole.hears(call)

    def statuses(self) -> Sequence[PluginStatus]:
        """See NodePlugins."""
        return () if self._whole is None else self._whole.statuses()

    async def begin(self, host: PluginHost) -> None:
        """See NodePlugins."""
        self._host = host
        settings = self._settings
        if not (settings.plugin_dir and await self._are_installed()):
            self._settings = replace(settings, plugin_dir="")  # they start with the daemon, or not at all
        if settings.validator.enable or self._settings.plugin_dir:
            await self._become_whole()
        if not settings.disable_connections:
            self._socket = PluginSocket(settings.socket, self._accept, lambda text: host.note(SOCKET, text))
            await self._socket.open()

    async def close(self) -> None:
        """See NodePlugins."""
        if self._socket is not None:
            await self._socket.close()
        if self._whole is not None:
            await self._whole.close()

    async def _are_installed(self) -> bool:
        directory = self._settings.plugin_dir
        job = Job(f"looking for NRI plugins in {directory}", directory, LOOK_SECONDS)
        try:
            return bool(await FOREIGN.run(job, os.listdir, directory))
        except FileNotFoundError:
            return False
        except OSError:  # who starts them says what is wrong
            return True

    def _accept(self, end: socket.socket) -> None:
        if self._whole is not None:
            self._whole.accept(end)
        else:
            HANDS.serve("first NRI plugin", self._accept_first(end))

    async def _accept_first(self, end: socket.socket) -> None:
        try:
            whole = await self._become_whole()
        except BaseException:
            end.close()
            raise
        whole.accept(end)

    async def _become_whole(self) -> NriPlugins:
        async with self._becoming:
            if self._whole is None:
                name = "crib.backends.nri.plugins"
                module = await OURS.run(f"importing {name}", importlib.import_module, name)
                settings = replace(self._settings, disable_connections=True)  # the socket is ours
                whole: NriPlugins = module.NriPlugins(settings, self.figures)
                self._whole = whole  # before it begins: the first may be ready while others still start
                await whole.begin(self._host)
            return self._whole

    async def pod(self, moment: PodMoment, pod: ShownPod, stage: StageTimer) -> None:
        """See NodePlugins."""
        await self._asked.pod(moment, pod, stage)

    async def container(
        self, moment: ContainerMoment, pod: ShownPod, container: ShownContainer, stage: StageTimer
    ) -> None:
        """See NodePlugins."""
        await self._asked.container(moment, pod, container, stage)

    async def create(self, pod: ShownPod, container: ShownContainer, stage: StageTimer) -> CreateAnswer:
        """See NodePlugins."""
        return await self._asked.create(pod, container, stage)

    async def update(
        self, pod: ShownPod, container: ShownContainer, change: ResourceChange, stage: StageTimer
    ) -> UpdateAnswer:
        """See NodePlugins."""
        return await self._asked.update(pod, container, change, stage)

    async def stop(self, pod: ShownPod, container: ShownContainer, stage: StageTimer) -> PluginOrders:
        """See NodePlugins."""
        return await self._asked.stop(pod, container, stage)

    @property
    def _asked(self) -> NriPlugins:
        """Verbs look at `present` first."""
        assert self._whole is not None
        return self._whole
