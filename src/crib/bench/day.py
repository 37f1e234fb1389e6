"""The order of `crib bench day`: what a kubelet asks of a runtime whose pods just run, and what that costs.

For each runtime in turn: pods with one container each, then the rhythm for some time. Each second both lists,
and the status of what changed since the last ones. Every 10 s statistics and the image file system, every 5 s
the runtime's own status. In each container a command every few seconds, as an exec probe runs it. A stream of
events is open. What is late is not made up for. CPU is told for a minute: of the daemon, the bench and the
machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from crib.bench import figures
from crib.bench.figures import Samples
from crib.bench.lives import cpu_seconds
from crib.bench.place import BenchPlace
from crib.bench.target import BenchTarget
from crib.bench.turns import carried_out, load_warnings, report, rotated, say
from crib.client import ClientError
from crib.stubs.runtime.v1.api_pb2 import (
    ContainerStatusRequest,
    ExecSyncRequest,
    GetEventsRequest,
    ImageFsInfoRequest,
    ListContainersRequest,
    ListContainerStatsRequest,
    ListPodSandboxRequest,
    ListPodSandboxStatsRequest,
    PodSandboxStatusRequest,
    StatusRequest,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crib.bench.options import DayOptions

RELIST, RUNTIME_STATUS, STATISTICS = 1.0, 5.0, 10.0
"""Seconds between two of each, as a kubelet has them."""
AT_ONCE = 8
"""Pods that are started at a time."""
EXEC_TIMEOUT = 30
"""Seconds for a command."""
CLEAN_LIMIT = 300.0
"""Seconds that cleaning up may take."""


class Day:
    """The rhythm, for one runtime."""

    def __init__(self, target: BenchTarget, samples: Samples, every: float) -> None:
        self._target = target
        self._samples = samples
        self._every = every
        self._call = target.connection.call
        self._runtime = target.connection.runtime
        self._known: dict[str, int] = {}
        """States of containers, by id."""
        self._pods: dict[str, str] = {}
        """Pods by their containers."""

    async def prepare(self, pods: int) -> None:
        """Start the pods."""
        left = iter(range(pods))

        async def worker() -> None:
            for _ in left:
                await self._target.start_pod()

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
        await self._relist()

    async def live(self, seconds: float) -> None:
        """The rhythm for so long; figures for a minute."""
        before = (_process_seconds(self._target.pid), _own_seconds(), cpu_seconds())
        began = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                group.create_task(self._events())
                group.create_task(self._repeat(RELIST, self._relist))
                group.create_task(self._repeat(RUNTIME_STATUS, self._status))
                group.create_task(self._repeat(STATISTICS, self._statistics))
                mine = [each for each, pod in self._pods.items() if pod in self._target.alive]
                for number, container in enumerate(mine):
                    shift = self._every * number / len(mine)
                    group.create_task(self._repeat(self._every, partial(self._probe, container), shift))
        minutes = (time.monotonic() - began) / 60
        after = (_process_seconds(self._target.pid), _own_seconds(), cpu_seconds())
        for label, first, last in zip(("daemon", "bench itself", "machine"), before, after, strict=True):
            if last:
                self._samples.add(
                    f"CPU of the {label}, a minute", "s", self._target.name, (last - first) / minutes
                )

    async def _repeat(self, every: float, work: Callable[[], Awaitable[None]], shift: float = 0.0) -> None:
        due = time.monotonic() + shift
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            await work()
            due = max(due + every, began)

    async def _timed(self, metric: str, work: Awaitable[object]) -> None:
        began = time.perf_counter()
        await work
        self._samples.add(metric, "ms", self._target.name, (time.perf_counter() - began) * 1000)

    async def _relist(self) -> None:
        await self._timed("relist", self._look())

    async def _look(self) -> None:
        call, runtime = self._call, self._runtime
        await call(runtime.ListPodSandbox, ListPodSandboxRequest())
        listed = (await call(runtime.ListContainers, ListContainersRequest())).containers
        states = {each.id: int(each.state) for each in listed}
        self._pods = {each.id: each.pod_sandbox_id for each in listed}
        changed = [each for each, state in states.items() if self._known.get(each) != state]
        self._known = states
        for container in changed:
            pod = self._pods[container]
            if pod in self._target.alive:
                await call(runtime.PodSandboxStatus, PodSandboxStatusRequest(pod_sandbox_id=pod))
                await call(runtime.ContainerStatus, ContainerStatusRequest(container_id=container))

    async def _status(self) -> None:
        await self._call(self._runtime.Status, StatusRequest())

    async def _statistics(self) -> None:
        await self._timed("statistics", self._read())

    async def _read(self) -> None:
        call, runtime = self._call, self._runtime
        await call(runtime.ListPodSandboxStats, ListPodSandboxStatsRequest())
        await call(runtime.ListContainerStats, ListContainerStatsRequest())
        await call(self._target.connection.image.ImageFsInfo, ImageFsInfoRequest())

    async def _probe(self, container: str) -> None:
        request = ExecSyncRequest(container_id=container, cmd=["true"], timeout=EXEC_TIMEOUT)
        await self._timed("exec probe", self._execute(request))

    async def _execute(self, request: ExecSyncRequest) -> None:
        await self._call(self._runtime.ExecSync, request)

    async def _events(self) -> None:
        """Read and forget them; a runtime that has none is asked no more."""
        with contextlib.suppress(ClientError):
            async for _ in self._target.connection.stream(
                self._runtime.GetContainerEvents, GetEventsRequest()
            ):
                pass


def _process_seconds(pid: int) -> float:
    """CPU time of a process so far, without its children (proc_pid_stat(5)); 0 when it is not known."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system


class DayBench:
    """One run of the bench."""

    def __init__(self, options: DayOptions, default_endpoint: str) -> None:
        self._options = options
        self._default_endpoint = default_endpoint
        self._place = BenchPlace()
        self.samples = Samples()
        self.warnings: list[str] = []

    async def run(self) -> None:
        """Everything; ClientError when a runtime fails."""
        options = self._options
        try:
            for text in options.endpoints or [f"crib={self._default_endpoint}"]:
                target = await self._place.reach(text, options.image, options.pids)
                target.handler = options.handler
                await target.prepare()
            self.warnings += load_warnings("before")
            for number in range(options.rounds):
                for target in rotated(self._place.targets, number):
                    await self._round(target)
            self.warnings += self.samples.noisy()
        finally:
            await asyncio.shield(self._place.clean())

    @property
    def names(self) -> list[str]:
        """The columns of the table."""
        return self._place.names

    async def _round(self, target: BenchTarget) -> None:
        say(f"{target.name}: {self._options.pods} pods for {self._options.seconds:g} s")
        day = Day(target, self.samples, self._options.probe)
        await day.prepare(self._options.pods)
        await day.live(self._options.seconds)
        for pod in tuple(target.alive):
            await target.remove_pod(pod)


async def run(options: DayOptions, default_endpoint: str) -> None:
    """`crib bench day`: measure, write the table to standard output and JSON where it is asked for."""
    bench = DayBench(options, default_endpoint)
    await carried_out(bench.run())
    report(figures.Report(bench.samples, bench.names, options, bench.warnings))
