"""What has passed the interfaces of pods.

The kernel's table of a namespace's interfaces, once opened inside it, can be read from anywhere. So it stays
open for the next question: to enter the namespace and open it anew takes six times as long, and a thread that
ends. An open one keeps the namespace in being, and with it the pod's interface. So a pod's is closed when it
is detached, and none is kept of a pod that is not attached.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from crib.backends.network.interfaces import NETLINK_SECONDS, POD_INTERFACE
from crib.host.entering import enter
from crib.host.kept_descriptors import moved_up
from crib.host.kept_files import KEPT_SECONDS
from crib.host.links import InterfaceCounters, open_counters, read_counters
from crib.host.taps import TAP_NAME
from crib.host.threads import OURS, Job
from crib.model.ids import SandboxId
from crib.model.stats import InterfaceUsage, NetworkUsage
from crib.ports.networks import PodNetwork

MAX_TABLES = 2048
"""Pods whose tables stay open: a descriptor each. Those of more are opened for each reading."""
_LOOPBACK = "lo"


class _Table(NamedTuple):
    """Open, and of which namespace it is: there may be another one at its path by now."""

    file: int
    namespace: int
    read_at: float = 0.0


class PodCounters:
    """Of all pods of one network. What threads read, the loop does not close under them."""

    def __init__(self) -> None:
        self._attached: set[SandboxId] = set()
        self._tables: dict[SandboxId, _Table] = {}
        """Not those that are being read."""
        self._lock = threading.Lock()
        self._closing: asyncio.TimerHandle | None = None

    def attached(self, pod: SandboxId) -> None:
        """Its table may stay open from now on."""
        with self._lock:
            self._attached.add(pod)

    def detached(self, pod: SandboxId) -> None:
        """Its namespace is about to go: nothing of it stays open."""
        with self._lock:
            self._attached.discard(pod)
            table = self._tables.pop(pod, None)
        if table is not None:
            os.close(table.file)

    async def usage(self, pods: Sequence[PodNetwork]) -> Mapping[SandboxId, NetworkUsage]:
        """Of all interfaces but loopback, eth0 first, of each pod that has a namespace. Off the loop."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._close_old)
        what = f"counters of {len(pods)} network namespaces"
        found = await OURS.run(Job(what), self._read_kept, pods)
        missing = [pod for pod in pods if pod.id not in found]
        if not missing:
            return found
        entering = Job(what, limit=NETLINK_SECONDS, spends_thread=True)
        return found | await OURS.run(entering, self._read_anew, missing)

    def _read_kept(self, pods: Iterable[PodNetwork]) -> dict[SandboxId, NetworkUsage]:
        found: dict[SandboxId, NetworkUsage] = {}
        for pod in pods:
            with self._lock:
                table = self._tables.pop(pod.id, None)
            if table is None:
                continue
            if table.namespace == _namespace(pod):
                self._read(pod.id, table, found)
            else:
                os.close(table.file)
        return found

    def _read_anew(self, pods: Iterable[PodNetwork]) -> dict[SandboxId, NetworkUsage]:
        """By a thread that goes from namespace to namespace and ends."""
        found: dict[SandboxId, NetworkUsage] = {}
        for pod in pods:
            try:
                namespace = _namespace(pod)
                enter(pod.netns, "net")
                table = _Table(moved_up(open_counters()), namespace)
            except OSError:
                continue  # it is gone, or was just being made
            self._read(pod.id, table, found)
        return found

    def _read(self, pod: SandboxId, table: _Table, found: dict[SandboxId, NetworkUsage]) -> None:
        try:
            found[pod] = NetworkUsage(time.time_ns(), _interfaces(read_counters(table.file)))
        except OSError:
            os.close(table.file)
            return
        with self._lock:
            if pod in self._attached and pod not in self._tables and len(self._tables) < MAX_TABLES:
                self._tables[pod] = table._replace(read_at=time.monotonic())
                return
        os.close(table.file)

    def _close_old(self) -> None:
        """Those that nobody has asked for in a while."""
        before = time.monotonic() - KEPT_SECONDS
        self._closing = None
        with self._lock:
            old = [pod for pod, table in self._tables.items() if table.read_at <= before]
            closing = [self._tables.pop(pod).file for pod in old]
            is_left = bool(self._tables)
        for file in closing:
            os.close(file)
        if is_left:
            self._closing = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._close_old)


def _namespace(pod: PodNetwork) -> int:
    """Which one is at its path (nsfs inode); 0 where there is none."""
    try:
        return os.stat(pod.netns).st_ino
    except OSError:
        return 0


def _interfaces(counted: Iterable[InterfaceCounters]) -> tuple[InterfaceUsage, ...]:
    found = [
        InterfaceUsage(
            one.name,
            one.rx_bytes,
            one.rx_errors,
            one.tx_bytes,
            one.tx_errors,
            one.rx_packets,
            one.rx_dropped,
            one.tx_packets,
            one.tx_dropped,
        )
        for one in counted
        if one.name != _LOOPBACK and not one.name.startswith(TAP_NAME)
    ]
    if len(found) > 1:
        found.sort(key=lambda one: one.name != POD_INTERFACE)
    return tuple(found)
