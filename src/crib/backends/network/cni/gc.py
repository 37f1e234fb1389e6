"""What networks hold for pods that are not there any more: GC of plugins, and host-local's files.

Most networks take addresses from host-local, which had no GC for long and after a power cut keeps what nobody
holds: its stores are swept here. They may be shared with another runtime, whose pods we do not know. GC runs
alone (`Exclusion`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from crib.backends.network.cni.host_local import Allocation, Store, stores_of
from crib.backends.network.cni.kept_results import Kept
from crib.backends.network.cni.plugins import UNKNOWN_COMMAND, Call, PluginFailed, Plugins
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.errors import CribError, Unavailable
from crib.model.ids import SandboxId
from crib.wire import cni

_log = logging.getLogger(__name__)

BOOT_MARGIN_SECONDS = 60.0
"""What was made so shortly before the boot may have been made after it, if the clock was set since."""
ALONE_SECONDS = 5.0
"""For which GC waits for plugins at work, and pods that start meanwhile wait with it."""
PATIENCE_SECONDS = 2.0
"""For which others wait for work that runs alone; after that it is cancelled."""
_INCOMPATIBLE = 1

AllKept = Callable[[], Awaitable[Mapping[SandboxId, tuple[Kept, ...]]]]


@dataclass(eq=False, slots=True)
class _Turn:
    """A place in the queue."""

    alone: bool
    admitted: asyncio.Future[None]


class Exclusion:
    """ADD and DEL of pods share it, GC has it alone (CNI specification, section 4, "Lifecycle & Ordering").

    First come, first served: a node that starts pods all the time has its garbage collected too, and a pod
    waits for one GC at most. Whoever shares must not ask again before it is done.
    """

    def __init__(self) -> None:
        self._sharing = 0
        self._is_alone = False
        self._bound: asyncio.Timeout | None = None
        """Of the work that runs alone."""
        self._queue: deque[_Turn] = deque()

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Run beside others that share."""
        await self._turn(alone=False)
        try:
            yield
        finally:
            self._leave()

    @contextlib.asynccontextmanager
    async def alone(self, within: float) -> AsyncIterator[None]:
        """Run when nobody else does. Unavailable if that is not `within` seconds, for which others wait.

        Unavailable also if somebody has waited for PATIENCE_SECONDS: what was under way is cancelled.
        """
        try:
            async with asyncio.timeout(within):
                await self._turn(alone=True)
        except TimeoutError:
            raise Unavailable(f"cni plugins have been at work for {within:g} s: try again later") from None
        bound = self._bound = asyncio.timeout(PATIENCE_SECONDS if self._queue else None)
        try:
            async with bound:
                yield
        except TimeoutError:
            if not bound.expired():
                raise
            raise Unavailable(
                f"cancelled, as pods have waited for it for {PATIENCE_SECONDS:g} s: try again later"
            ) from None
        finally:
            self._bound = None
            self._leave()

    async def _turn(self, *, alone: bool) -> None:
        turn = _Turn(alone, asyncio.get_running_loop().create_future())
        self._queue.append(turn)
        self._admit()
        if not turn.admitted.done() and self._bound is not None and self._bound.when() is None:
            self._bound.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECONDS)
        try:
            await turn.admitted
        except asyncio.CancelledError:
            if turn.admitted.cancelled():
                self._admit()
            else:  # its turn came at the same moment
                self._leave()
            raise

    def _admit(self) -> None:
        while self._queue and not self._is_alone:
            turn = self._queue[0]
            given_up = turn.admitted.cancelled()
            if turn.alone and self._sharing and not given_up:
                return
            self._queue.popleft()
            if given_up:
                continue
            if turn.alone:
                self._is_alone = True
            else:
                self._sharing += 1
            turn.admitted.set_result(None)

    def _leave(self) -> None:
        """For one that is in: the one that runs alone, or one of those that share."""
        if self._is_alone:
            self._is_alone = False
        else:
            self._sharing -= 1
        self._admit()


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
        """`pods`: what GC must not meet; `kept` returns what is attached."""
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
