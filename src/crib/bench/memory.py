"""Many pods at once: what the daemon and its helpers take of memory, and how lists and exec bear it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from crib.bench.target import WORKLOAD
from crib.client import Connection, lookup
from crib.stubs.runtime.v1.api_pb2 import (
    ContainerFilter,
    ExecSyncRequest,
    ListContainersRequest,
    ListContainerStatsRequest,
    ListPodSandboxRequest,
    ListPodSandboxStatsRequest,
    VersionRequest,
)

if TYPE_CHECKING:
    from crib.bench.figures import Samples
    from crib.bench.target import BenchTarget

AT_ONCE = 10
CALLS = 10
VERSIONS = 200
MAX_DEPTH = 64
WORKER = "crib.backends.images.worker.main"
"""What the command line of crib's image worker holds."""
_KIB_PER_MIB = 1024


def rss_mib(pid: int) -> float:
    """Resident memory of a process (VmRSS), in MiB; 0 when it is gone."""
    return _field(f"/proc/{pid}/status", "VmRSS:") / _KIB_PER_MIB


def pss_mib(pid: int) -> float:
    """Its share of memory: pages that it shares count as fractions (smaps_rollup), in MiB."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss:") / _KIB_PER_MIB


def peak_rss_mib(pid: int) -> float:
    """The most memory it had resident (VmHWM) since it began or `forget_peak`, in MiB; 0 when it is gone."""
    return _field(f"/proc/{pid}/status", "VmHWM:") / _KIB_PER_MIB


def forget_peak(pid: int) -> None:
    """Reset VmHWM (clear_refs in proc_pid_clear_refs(5)); without permission it keeps its value."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def image_workers(daemon: int) -> list[int]:
    """The processes in which crib's daemon does the work of its pulls; none of other runtimes'."""
    return [
        pid
        for pid in helpers_of(daemon, set(), processes() - {daemon})
        if any(WORKER in word for word in _command_line(pid))
    ]


def _field(path: str, name: str) -> int:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass  # the process ended while it was looked at
    return 0


def processes() -> set[int]:
    """Every process of this machine."""
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()}


def helpers_of(daemon: int, ids: set[str], candidates: set[int]) -> list[int]:
    """Processes that a runtime keeps for these pods and containers: shims, monitors, pause processes.

    They name an id on their command line, or descend from the daemon or from one that does. The workload
    itself does not count.
    """
    words = {pid: _command_line(pid) for pid in candidates}
    parents = {pid: _field(f"/proc/{pid}/status", "PPid:") for pid in candidates}
    ours = {
        pid for pid, found in words.items() if any(identifier in word for word in found for identifier in ids)
    }
    found = []
    for pid in candidates:
        ancestor, steps = pid, 0
        while ancestor in parents and ancestor not in ours and steps < MAX_DEPTH:
            ancestor, steps = parents[ancestor], steps + 1
        descends = ancestor in ours or (daemon > 0 and ancestor == daemon)
        if descends and words[pid] and WORKLOAD[1] not in words[pid]:
            found.append(pid)
    return found


def _command_line(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read(4096).split(b"\0") if word]
    except OSError:
        return []  # the process ended while it was looked at


async def measure(target: BenchTarget, count: int, samples: Samples) -> None:
    """Bring `count` pods up, look, take them down; one row each in `samples`."""
    name, pid = target.name, target.pid
    before = processes()
    if pid:
        samples.add("daemon RSS before", "MiB", name, rss_mib(pid))
        samples.add("daemon PSS before", "MiB", name, pss_mib(pid))
    samples.add(f"{count} pods up, concurrency {AT_ONCE}", "pods/s", name, await _up(target, count))
    if pid:
        samples.add(f"daemon RSS, {count} pods", "MiB", name, rss_mib(pid))
        samples.add(f"daemon PSS, {count} pods", "MiB", name, pss_mib(pid))
    ids = await _ids(target)
    helpers = helpers_of(pid, ids, processes() - before)
    helpers_pss = sum(map(pss_mib, helpers))
    samples.add("helpers' PSS per pod", "MiB", name, helpers_pss / count)
    samples.add("helper processes per pod", "processes", name, len(helpers) / count)
    await _calls(target, count, samples)
    samples.add(f"{count} pods down, concurrency {AT_ONCE}", "pods/s", name, await _down(target))


async def _ids(target: BenchTarget) -> set[str]:
    found = await lookup.containers(target.connection)
    return target.alive | {each.id for each in found if each.pod_sandbox_id in target.alive}


async def _up(target: BenchTarget, count: int) -> float:
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await target.start_pod()

    return await _rate(worker, count)


async def _down(target: BenchTarget) -> float:
    count = len(target.alive)
    left = iter(list(target.alive))

    async def worker() -> None:
        for pod_id in left:
            await target.remove_pod(pod_id)

    return await _rate(worker, count)


async def _rate(worker: Callable[[], Awaitable[None]], count: int) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return count / (time.perf_counter() - began)


async def _calls(target: BenchTarget, count: int, samples: Samples) -> None:
    connection = target.connection
    runtime = connection.runtime
    one = ListContainersRequest(filter=ContainerFilter(pod_sandbox_id=next(iter(target.alive))))
    container_id = (await connection.call(runtime.ListContainers, one)).containers[0].id
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "ListContainers": lambda: connection.call(runtime.ListContainers, ListContainersRequest()),
        "ListPodSandbox": lambda: connection.call(runtime.ListPodSandbox, ListPodSandboxRequest()),
        "ListContainerStats": lambda: connection.call(
            runtime.ListContainerStats, ListContainerStatsRequest()
        ),
        "ListPodSandboxStats": lambda: connection.call(
            runtime.ListPodSandboxStats, ListPodSandboxStatsRequest()
        ),
        "ExecSync true": lambda: connection.call(
            runtime.ExecSync, ExecSyncRequest(container_id=container_id, cmd=["true"], timeout=30)
        ),
    }
    for _ in range(CALLS):
        for name, call in calls.items():
            began = time.perf_counter()
            await call()
            samples.add(f"{name}, {count} pods", "ms", target.name, (time.perf_counter() - began) * 1000)
    await _version_meanwhile(target, calls["ListPodSandboxStats"], samples)


async def _version_meanwhile(
    target: BenchTarget, list_stats: Callable[[], Awaitable[object]], samples: Samples
) -> None:
    """How long others wait, over a connection of their own, while the statistics are listed all the time."""
    connection = Connection(target.connection.endpoint)
    listing = asyncio.ensure_future(_repeat(list_stats))
    try:
        for _ in range(VERSIONS):
            began = time.perf_counter()
            await connection.call(connection.runtime.Version, VersionRequest())
            took = (time.perf_counter() - began) * 1000
            samples.add("Version while ListPodSandboxStats is called", "ms", target.name, took)
    finally:
        listing.cancel()
        await asyncio.wait([listing])
        await connection.close()


async def _repeat(call: Callable[[], Awaitable[object]]) -> None:
    while True:
        await call()
