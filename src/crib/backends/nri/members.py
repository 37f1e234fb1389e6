"""Who is connected: plugins that came to the socket, and those that are installed."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace

from crib.backends.nri.installed import InstalledPlugin, InstalledPlugins, Started
from crib.backends.nri.joining import Joining
from crib.backends.nri.link import PluginLink
from crib.backends.nri.listening import PluginSocket
from crib.backends.nri.lives import Breach, PluginName
from crib.backends.nri.plugin import Plugin, PluginPeer
from crib.backends.nri.runtime_calls import RuntimeCalls
from crib.host.peers import peer_of
from crib.model.nri_settings import NriSettings
from crib.model.plugin_status import PluginFigures, PluginState, PluginStatus
from crib.ports.plugins import PluginHost
from crib.tasks.groups import Beside, all_of
from crib.tasks.keeper import HANDS

_log = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
"""Of all plugins, whether or not they have registered; who comes to the socket beyond that is sent away."""
SHUTDOWN_SECONDS = 1.0
"""For a plugin to hear that the daemon ends."""
SOCKET = "NRI socket"
"""Subject of notices."""


class Members:
    """All plugins of a node."""

    def __init__(self, settings: NriSettings, figures: PluginFigures, changed: Callable[[], None]) -> None:
        """`changed` is called when `ready` has changed."""
        self._settings = settings
        self._figures = figures
        self._changed = changed
        self._host: PluginHost
        self._joining: Joining
        self._socket: PluginSocket | None = None
        self._installed: InstalledPlugins | None = None
        self._connected: list[Plugin] = []
        self.ready: tuple[Plugin, ...] = ()
        """Those that take part, in their order."""

    async def begin(self, host: PluginHost) -> None:
        """Start those that are installed, and let others connect."""
        settings, self._host = self._settings, host
        self._joining = Joining(settings, host)
        if settings.plugin_dir:
            self._installed = InstalledPlugins(
                settings.plugin_dir, settings.plugin_config_dir, self._live_installed, self._note
            )
            await self._installed.begin(settings.registration_timeout)
        if not settings.disable_connections:
            self._socket = PluginSocket(settings.socket, self.accept, lambda text: host.note(SOCKET, text))
            await self._socket.open()

    async def close(self) -> None:
        """Tell all that the daemon ends, and end those that it started."""
        if self._socket is not None:
            await self._socket.close()
        leaving = [one for one in self._connected if one.is_ready]
        await all_of("ending NRI plugins", [one.shut_down(SHUTDOWN_SECONDS) for one in leaving])
        if self._installed is not None:
            await self._installed.close()
        for one in tuple(self._connected):
            one.end("the daemon ends")

    def statuses(self) -> Sequence[PluginStatus]:
        """Of all, those that take part first, in their order; then installed ones that do not run."""
        installed = {str(one.name): one for one in self._installed.plugins} if self._installed else {}
        found = []
        for plugin in sorted(self._connected, key=lambda one: (not one.is_ready, str(one))):
            status = plugin.status
            if status.installed and (one := installed.pop(status.name, None)) is not None:
                status = replace(status, starts=one.starts, problem=one.problem)
            found.append(status)
        return [*found, *map(_not_running, installed.values())]

    def _note(self, name: str, text: str) -> None:
        self._host.note(f"NRI plugin {name}", text)

    def accept(self, end: socket.socket) -> None:
        """Take somebody in who has connected; `end` is ours."""
        try:
            who = peer_of(end)
        except OSError:  # it has gone again
            end.close()
            return
        if len(self._connected) >= MOST_CONNECTIONS:
            _log.error("pid %d is sent away: %d NRI plugins are connected", who.pid, MOST_CONNECTIONS)
            end.close()
            return
        _log.info("pid %d (uid %d, %s) connects as an NRI plugin", who.pid, who.uid, who.executable or "?")
        HANDS.serve("NRI plugin", self._live_connected(end, who.pid))

    async def _live_connected(self, end: socket.socket, pid: int) -> None:
        try:
            link = await PluginLink.over(end)
        except OSError:
            return  # it has gone again
        plugin = Plugin(link, PluginPeer(pid, installed=False), None, self._figures)
        await self._live(plugin, "", lambda: self._note(str(plugin), ""))
        is_back = any(one.name == plugin.name for one in self.ready)
        if plugin.problem and plugin.name is not None and not is_back:
            self._note(str(plugin), f"it was dropped, and has not come back: {plugin.problem}")

    async def _live_installed(self, started: Started, ready: Callable[[], None]) -> str:
        try:
            link = await PluginLink.over(started.end)
        except OSError:
            return ""  # it has ended
        plugin = Plugin(link, PluginPeer(started.pid, installed=True), started.name, self._figures)
        await self._live(plugin, started.configuration, ready)
        return plugin.problem

    async def _live(self, plugin: Plugin, configuration: str, ready: Callable[[], None]) -> None:
        """From its connection to its end."""

        def changed() -> None:
            self._sort()
            if plugin.is_ready:
                self._warn_of_namesakes(plugin)
                ready()

        plugin.changed = changed
        self._connected.append(plugin)
        plugin.link.begin(RuntimeCalls(plugin, self._host).methods)
        joining = self._joining.join(plugin, configuration)
        try:
            async with Beside() as beside:
                beside.start(f"joining of NRI plugin {plugin}", _joined(plugin, joining))
                gone = beside.start(f"connection of NRI plugin {plugin}", plugin.link.gone())
                await asyncio.wait((gone, plugin.ended), return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    plugin.lost(gone.result())
        finally:
            plugin.end("the daemon ends")
            self._connected.remove(plugin)

    def _warn_of_namesakes(self, plugin: Plugin) -> None:
        """Both take part: a new one may come before the old one has gone. They may contradict each other."""
        pids = [str(one.peer.pid) for one in self.ready if one.name == plugin.name]
        if len(pids) > 1:
            _log.warning("several NRI plugins are called %s: pids %s", plugin, ", ".join(pids))

    def _sort(self) -> None:
        ready = [one for one in self._connected if one.is_ready and one.name is not None]
        self.ready = tuple(sorted(ready, key=lambda one: one.name or PluginName("", "")))
        self._changed()


async def _joined(plugin: Plugin, joining: Coroutine[None, None, None]) -> None:
    try:
        await joining
    except Breach as error:  # of itself, or it has ended meanwhile
        plugin.drop(str(error))
    except Exception as error:  # it would be neither asked nor told of
        _log.exception("NRI plugin %s could not be taken in", plugin)
        plugin.drop(f"{type(error).__name__}: {error}")


def _not_running(one: InstalledPlugin) -> PluginStatus:
    return PluginStatus(
        name=str(one.name),
        state=PluginState.ENDED if one.stays_away else PluginState.WAITING,
        since=one.since,
        pid=one.pid,
        installed=True,
        starts=one.starts,
        problem=one.problem,
    )
