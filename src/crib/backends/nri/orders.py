"""Changes that a plugin wants without having been asked for anything."""

from __future__ import annotations

from crib.backends.nri.plugin import Plugin
from crib.model.ids import ContainerId
from crib.model.plugins import PluginOrders
from crib.ports.plugins import PluginHost


async def carried_out(plugin: Plugin, host: PluginHost, orders: PluginOrders) -> set[ContainerId]:
    """Have them done, evictions first: they make room. The containers whose update failed, unless the plugin
    does not mind.
    """
    plugin.count(orders)
    if orders.evictions:
        await host.evict(orders.evictions)
    failed = await host.update(orders.updates) if orders.updates else ()
    return {one.update.container for one in failed if not one.update.ignore_failure}
