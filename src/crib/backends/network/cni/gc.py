"""What networks hold for pods that are not there any more: GC of plugins, and host-local's files.

Most networks take addresses from host-local, which had no GC for long and after a power cut keeps what nobody
holds: its stores are swept here. They may be shared with another runtime, whose pods we do not know.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from crib.backends.network.cni.host_local import Allocation, Store, stores_of
from crib.backends.network.cni.kept_results import Kept
from crib.backends.network.cni.plugins import UNKNOWN_COMMAND, Call, PluginFailed, Plugins
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.errors import CribError
from crib.model.ids import SandboxId
from crib.wire import cni

_log = logging.getLogger(__name__)

BOOT_MARGIN_SECONDS: Final = 60.0
"""What was made that shortly before the boot may have been made after it, by a clock that was set since."""
_INCOMPATIBLE: Final = 1


@dataclass(frozen=True, slots=True)
class Holders:
    """Who may hold something, as it is while nothing is attached or detached."""

    kept: Mapping[SandboxId, tuple[Kept, ...]]
    """The attachments of pods that are there."""
    known: Collection[str]
    """Pods that are there."""
    lost: Collection[str]
    """Pods that were ours and are not there."""
    everything: bool
    """Whether what is not of a known pod goes in any case."""

    def attachments_to(self, network: str) -> list[tuple[str, str]]:
        """Pods and interfaces that are attached to a network."""
        return [
            (pod, kept.interface)
            for pod, attachments in self.kept.items()
            for kept in attachments
            if kept.network.name == network
        ]


class Garbage:
    """Releases what no pod holds."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    async def collect(self, networks: Iterable[cni.NetworkConf], holders: Holders) -> list[str]:
        """Collect the garbage of networks, of which one of each name counts; says what was released.

        Nothing may be attached or detached meanwhile.
        """
        released: list[str] = []
        by_name: dict[str, cni.NetworkConf] = {}
        for network in networks:
            by_name.setdefault(network.name, network)
        for network in by_name.values():
            if network.disable_gc:
                continue
            if network.at_least("1.1.0"):
                await self._run_gc(network, holders.attachments_to(network.name))
            released += await _sweep_stores(network, holders)
        return released

    async def _run_gc(self, network: cni.NetworkConf, valid: list[tuple[str, str]]) -> None:
        for plugin in network.plugins:
            try:
                await self._plugins.call(Call("GC", plugin.type, cni.gc_request(network, plugin, valid)))
            except PluginFailed as error:
                if error.error.code in (_INCOMPATIBLE, UNKNOWN_COMMAND):
                    _log.debug("network %s: cni plugin %s has no GC: %s", network.name, plugin.type, error)
                else:
                    _log.warning("garbage of network %s stays: %s", network.name, error)
            except CribError as error:
                _log.warning("garbage of network %s stays: %s", network.name, error)


async def _sweep_stores(network: cni.NetworkConf, holders: Holders) -> list[str]:
    try:
        job = Job(f"sweeping the addresses of network {network.name}", f"network {network.name}")
        return await FOREIGN.run(job, _sweep, network, holders)
    except (CribError, Overdue) as error:
        _log.warning("addresses of network %s stay: %s", network.name, error)
        return []


def _sweep(network: cni.NetworkConf, holders: Holders) -> list[str]:
    booted = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    oldest = booted - int(BOOT_MARGIN_SECONDS * 1e9)
    released: list[str] = []
    for store in stores_of(network):
        garbage = [held for held in store.allocations() if _is_garbage(held, holders, oldest)]
        released += [
            f"address {held.address} of {network.name}, held by {held.container_id or 'nobody'}"
            for held in _release(store, garbage)
        ]
    return released


def _release(store: Store, garbage: list[Allocation]) -> list[Allocation]:
    return list(store.release(garbage)) if garbage else []


def _is_garbage(held: Allocation, holders: Holders, oldest: int) -> bool:
    if held.container_id in holders.known:
        return False
    if not held.container_id:
        # Torn by a power cut; one that is just being made is whole within milliseconds.
        return time.time_ns() - held.made_at_ns > int(BOOT_MARGIN_SECONDS * 1e9)
    return holders.everything or held.container_id in holders.lost or held.made_at_ns < oldest
