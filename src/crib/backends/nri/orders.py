"""Changes that a plugin wants without having been asked for anything."""

from __future__ import annotations

import logging

from crib.backends.nri.plugin import Plugin
from crib.model.ids import ContainerId
from crib.model.plugins import PluginOrders
from crib.ports.plugins import PluginHost

_log = logging.getLogger(__name__)


async def carried_out(plugin: Plugin, host: PluginHost, orders: PluginOrders) -> set[ContainerId]:
    """Have them done. The containers whose update failed, unless the plugin does not mind."""
    plugin.count(orders)
    failed = await host.update(orders.updates) if orders.updates else ()
    if orders.evictions:
        await host.evict(orders.evictions)
    for one in failed:
        _log.warning(
            "NRI plugin %s: updating container %s failed: %s", plugin, one.update.container, one.problem
        )
    return {one.update.container for one in failed if not one.update.ignore_failure}
