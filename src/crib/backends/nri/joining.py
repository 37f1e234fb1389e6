"""How a plugin that has connected comes to take part: it registers, is configured, and is synchronized.

The synchronization is done while nothing is made on the node (`PluginHost.alone`), and the plugin is counted
among the others before that ends: it has heard of every pod and container once.
"""

from __future__ import annotations

import asyncio
import logging
import time

from crib import __version__
from crib.backends.nri.lives import Breach
from crib.backends.nri.moments import checked_mask
from crib.backends.nri.orders import carried_out
from crib.backends.nri.plugin import Plugin
from crib.backends.nri.synchronizing import parts
from crib.backends.nri.translate import container_message, pod_message
from crib.backends.nri.translate_answers import synchronize_updates
from crib.host.threads import OURS, Job
from crib.model.errors import Unavailable
from crib.model.nri_settings import NriSettings
from crib.model.plugin_status import PluginState
from crib.model.plugins import ContainerUpdate, PluginOrders, ShownNode
from crib.ports.plugins import PluginHost, PluginRefused
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.ttrpc.errors import CallFailed
from crib.wire.ttrpc import Oversized

_log = logging.getLogger(__name__)

RUNTIME = "crib"
NRI_VERSION = "v0.12.0"
"""Of the NRI project whose protocol this is."""
FIRST_PAUSE = 5.0
MOST_PAUSE = 60.0
"""Seconds until a plugin is synchronized that could not be, as something takes too long to be made. The pause
doubles from the first to the most: each try keeps others from making anything for a while.
"""
FIRST_AWAY = 10.0
MOST_AWAY = 600.0
"""Seconds until a plugin is synchronized that was dropped while it was: the node made nothing meanwhile, and
it may come back at once. The time doubles from the first to the most.
"""
MOST_DROPPED = 64
"""Names of such plugins that are remembered."""
WRITING_SECONDS = 30.0
"""For the messages that tell of all pods and containers."""


class Joining:
    """Takes plugins in, by the settings."""

    def __init__(self, settings: NriSettings, host: PluginHost) -> None:
        self._settings = settings
        self._host = host
        self._away: dict[str, float] = {}
        """Seconds that plugins wait which were dropped while they were synchronized, by their names."""

    async def join(self, plugin: Plugin, configuration: str) -> None:
        """Until it is ready, or has been dropped. To be cancelled when it ends by itself."""
        limit = self._settings.registration_timeout
        try:
            async with asyncio.timeout(limit):
                await asyncio.wait([plugin.registered])  # which a time-out does not cancel
                await self._configure(plugin, configuration)
        except TimeoutError:
            plugin.drop(f"it was not registered and configured within {limit:g} s")
        if plugin.state is not PluginState.CONFIGURED:
            return
        if away := self._away.get(str(plugin)):
            _log.warning("NRI plugin %s, which was dropped in Synchronize, waits for %g s", plugin, away)
            await asyncio.sleep(away)
        updates = await self._synchronize(plugin)
        self._remember(plugin)
        if updates:
            await carried_out(plugin, self._host, PluginOrders(updates))

    def _remember(self, plugin: Plugin) -> None:
        """Whether its synchronization has failed."""
        away = self._away.pop(str(plugin), 0.0)
        if plugin.problem:
            self._away[str(plugin)] = min(2 * away, MOST_AWAY) or FIRST_AWAY
            for oldest in list(self._away)[:-MOST_DROPPED]:
                del self._away[oldest]

    async def _configure(self, plugin: Plugin, configuration: str) -> None:
        settings = self._settings
        request = pb.ConfigureRequest(
            config=configuration,
            runtime_name=RUNTIME,
            runtime_version=__version__,
            registration_timeout=round(settings.registration_timeout * 1000),
            request_timeout=round(settings.request_timeout * 1000),
            NRI_version=NRI_VERSION,
        )
        limit = settings.registration_timeout
        try:
            answer = await plugin.measured(
                "Configure", plugin.link.call("Configure", request, pb.ConfigureResponse, limit), "", limit
            )
            if answer is not None:
                plugin.mask = checked_mask(answer.events)
                plugin.become(PluginState.CONFIGURED)
        except (CallFailed, ValueError) as error:
            plugin.drop(f"Configure: {error}")

    async def _synchronize(self, plugin: Plugin) -> tuple[ContainerUpdate, ...] | None:
        """The updates that it wants; None where it has been dropped, or has gone."""
        subject, pause = f"NRI plugin {plugin}", FIRST_PAUSE
        waits = False
        try:
            while True:
                try:
                    return await self._alone(plugin)
                except Unavailable as error:
                    waits = True
                    self._host.note(subject, f"it is not synchronized yet: {error}")
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, MOST_PAUSE)
        except (CallFailed, Oversized, PluginRefused) as error:
            plugin.drop(f"Synchronize: {error}")
            return None
        finally:
            if waits:
                self._host.note(subject, "")

    async def _alone(self, plugin: Plugin) -> tuple[ContainerUpdate, ...] | None:
        limit = self._settings.synchronize_timeout
        async with self._host.alone() as node:
            plugin.become(PluginState.SYNCHRONIZING)
            told = self._told(plugin, node, time.monotonic() + limit)
            updates = await plugin.measured("Synchronize", told, "", limit)
            if updates is not None:
                plugin.become(PluginState.READY)
        return updates

    @staticmethod
    async def _told(plugin: Plugin, node: ShownNode, until: float) -> tuple[ContainerUpdate, ...]:
        job = Job(f"writing the synchronization of NRI plugin {plugin}", limit=WRITING_SECONDS)
        messages = await OURS.run(job, _messages, node)
        answer = pb.SynchronizeResponse()
        for request in messages:
            left = until - time.monotonic()
            answer = await plugin.link.call("Synchronize", request, pb.SynchronizeResponse, max(left, 0))
            if request.more and (answer.update or not answer.more):
                raise Breach("it does not take all pods and containers in parts")
        updates = synchronize_updates(str(plugin), answer.update)
        told = len(node.pods), len(node.containers), len(messages)
        _log.info("NRI plugin %s knows %d pods and %d containers, by %d messages", plugin, *told)
        return updates


def _messages(node: ShownNode) -> list[pb.SynchronizeRequest]:
    return list(parts(map(pod_message, node.pods), map(container_message, node.containers)))
