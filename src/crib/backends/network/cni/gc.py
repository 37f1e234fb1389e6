"""What networks hold for pods that are not there any more: GC of plugins, and host-local's files.

Most networks take addresses from host-local, which had no GC for long and after a power cut keeps what nobody
holds: its stores are swept here. They may be shared with another runtime, whose pods we do not know.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from crib.backends.network.cni.exclusion import Exclusion
from crib.backends.network.cni.host_local import Allocation, Store, stores_of
from crib.backends.network.cni.kept_results import Kept
from crib.backends.network.cni.plugins import UNKNOWN_COMMAND, Call, PluginFailed, Plugins
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.errors import CribError, Unavailable
from crib.model.ids import SandboxId
from crib.wire import cni

_log = logging.getLogger(__name__)

BOOT_MARGIN_SECONDS = 60.0
"""What was made that shortly before the boot may have been made after it, by a clock that was set since."""
ALONE_SECONDS = 5.0
"""For which GC waits for plugins at work, and pods that start meanwhile wait with it."""
_INCOMPATIBLE = 1

AllKept = Callable[[], Awaitable[Mapping[SandboxId, tuple[Kept, ...]]]]


@dataclass(frozen=True, slots=True)
class Holders:
    """Whose addresses stay, and whose go."""

    is_known: Callable[[str], bool]
    """Whether a pod is there, or is just being attached. Asked from a thread, of each address at its time."""
    lost: Collection[str]
    """Pods that were ours and are not there."""
    everything: bool
    """Whether what is not of a known pod goes in any case."""


class Garbage:
    """Releases what no pod holds."""

    def __init__(self, plugins: Plugins, pods: Exclusion, kept: AllKept) -> None:
        """`pods`: what GC must not meet; `kept` tells what is attached."""
        self._plugins = plugins
        self._pods = pods
        self._kept = kept

    async def collect(
        self, networks: Iterable[cni.NetworkConf], holders: Holders
    ) -> tuple[list[str], list[str]]:
        """What was released; and what is to be tried again, as pods had to be let in before GC was done.

        Each network is a turn of its own, so that pods come in between. Of one name the first counts.
        """
        released: list[str] = []
        broken_off: list[str] = []
        by_name: dict[str, cni.NetworkConf] = {}
        for network in networks:
            by_name.setdefault(network.name, network)
        for network in by_name.values():
            if network.disable_gc:
                continue
            if network.at_least("1.1.0"):
                try:
                    await self._run_gc(network, holders)
                except Unavailable as error:
                    broken_off.append(f"garbage of network {network.name}: {error}")
            released += await _sweep_stores(network, holders)
        return released, broken_off

    async def _run_gc(self, network: cni.NetworkConf, holders: Holders) -> None:
        """Unavailable if pods come before."""
        async with self._pods.alone(ALONE_SECONDS):
            valid: list[tuple[str, str]] = [
                (pod, one.interface)
                for pod, attachments in (await self._kept()).items()
                for one in attachments
                if one.network.name == network.name and pod not in holders.lost
            ]
            for plugin in network.plugins:
                await self._ask(network, plugin, valid)

    async def _ask(self, network: cni.NetworkConf, plugin: cni.Plugin, valid: list[tuple[str, str]]) -> None:
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
    """Pods come and go meanwhile: the stores have locks of their own."""
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
    if holders.is_known(held.container_id):
        return False
    if not held.container_id:
        # Torn by a power cut; one that is just being made is whole within milliseconds.
        return time.time_ns() - held.made_at_ns > int(BOOT_MARGIN_SECONDS * 1e9)
    return holders.everything or held.container_id in holders.lost or held.made_at_ns < oldest
