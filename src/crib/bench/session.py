"""The order of a bench: prepare, warm up, measure in turn, report; and clean up whatever happens.

`BenchSandboxes` measures sandboxes without containers, many at a time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from crib.bench import figures, lives, memory
from crib.bench.figures import Samples
from crib.bench.floors import NAME as FLOOR
from crib.bench.floors import CniFloor, FloorError, Floors
from crib.bench.lives import cpu_seconds
from crib.bench.options import BenchPart
from crib.bench.place import BenchPlace
from crib.bench.target import BenchTarget, parse_named
from crib.bench.turns import carried_out, load_warnings, report, rotated, say
from crib.client import ClientError, pods
from crib.stubs.runtime.v1.api_pb2 import RemovePodSandboxRequest, StopPodSandboxRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from crib.bench.options import BenchOptions

WARM_UP = 2
"""Pods of each runtime that are not counted."""
LIVES = {1: 10, 10: 30}
"""Pods of one round by concurrency."""
CNI_BIN = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")


class Bench:
    """One run of the bench."""

    def __init__(self, options: BenchOptions, default_endpoint: str) -> None:
        self._options = options
        self._place = BenchPlace()
        self.samples = Samples()
        self.warnings: list[str] = []
        self._floors: list[Floors | CniFloor] = []
        if options.floors:
            self._floors.append(Floors(self._place.directory))
        if options.cni:
            self._floors.append(CniFloor(options.cni, tuple(options.cni_bin or CNI_BIN)))
        self._default_endpoint = default_endpoint

    async def run(self) -> None:
        """Everything; ClientError or FloorError when a runtime or a program fails."""
        try:
            await self._prepare()
            self.warnings += load_warnings("before")
            parts = set(self._options.only or list(BenchPart))
            if BenchPart.OPS in parts:
                await self._ops()
            if BenchPart.LIFECYCLE in parts:
                await self._lifecycle()
            if BenchPart.SANDBOXES in parts:
                await self._sandboxes()
            for target in self._place if self._options.pods else []:
                say(f"{target.name}: {self._options.pods} pods at once")
                await memory.measure(target, self._options.pods, self.samples)
            self.warnings += self.samples.noisy()
        finally:
            await asyncio.shield(self._clean())

    async def _prepare(self) -> None:
        handlers = (
            dict([parse_named(self._options.handler, "handler")]) if "=" in self._options.handler else {}
        )
        for text in self._options.endpoints or [f"crib={self._default_endpoint}"]:
            target = await self._place.reach(text, self._options.image, self._options.pids)
            target.handler = handlers.get(target.name, "") if handlers else self._options.handler
            target.seccomp = self._options.seccomp
            target.cgroup_parent = self._options.cgroup_parent
            await target.prepare()
        for floor in self._floors:
            floor.prepare()

    async def _ops(self) -> None:
        for number in range(-WARM_UP, self._options.number):
            say(f"\rpod {max(0, number + 1)} of {self._options.number} ", end="")
            for target in rotated(self._place.targets, number):
                times = await lives.Life(target).live()
                if number >= 0:
                    self.samples.add_all("ms", target.name, times)
            for floor in self._floors:
                times = await asyncio.to_thread(floor.live)
                if number >= 0:
                    self.samples.add_all("ms", FLOOR, times)
        say("")

    async def _lifecycle(self) -> None:
        rounds = self._options.rounds
        for at_once, count in LIVES.items():
            for number in range(rounds):
                for target in rotated(self._place.targets, number):
                    say(f"{target.name}: {count} lives, {at_once} at a time, round {number + 1} of {rounds}")
                    rate, cpu = await lives.many_lives(target, count, at_once)
                    self.samples.add(f"lifecycle, concurrency {at_once}", "pods/s", target.name, rate)
                    self.samples.add(f"machine CPU per pod, concurrency {at_once}", "ms", target.name, cpu)

    async def _sandboxes(self) -> None:
        rounds = self._options.rounds
        for at_once, count in LIVES.items():
            for number in range(rounds):
                for target in rotated(self._place.targets, number):
                    say(f"{target.name}: {count} sandboxes, {at_once} at a time, round {number + 1}")
                    await BenchSandboxes(target, at_once, self.samples).live(count)

    async def _clean(self) -> None:
        for floor in self._floors:
            await asyncio.to_thread(floor.clean)
        await self._place.clean()

    def names(self) -> list[str]:
        """The columns of the table."""
        return self._place.names + ([FLOOR] if self._floors else [])


async def run(options: BenchOptions, default_endpoint: str) -> None:
    """`crib bench`: measure, write the table to standard output and JSON where it is asked for."""
    bench = Bench(options, default_endpoint)
    try:
        await carried_out(bench.run())
    except FloorError as error:
        raise ClientError(str(error)) from error
    report(figures.Report(bench.samples, bench.names(), options, bench.warnings))


class BenchSandboxes:
    """One runtime's sandboxes, made and ended `at_once` at a time."""

    def __init__(self, target: BenchTarget, at_once: int, samples: Samples) -> None:
        self._target = target
        self._at_once = at_once
        self._samples = samples

    async def live(self, count: int) -> None:
        """Run `count` of them, then stop them, then remove them; a sample of each call."""
        made: list[str] = []

        async def run(_: str) -> None:
            sandbox = self._target.sandbox_config()
            pod_id = (await pods.run_sandbox(self._target.connection, sandbox, self._target.handler)).id
            self._target.alive.add(pod_id)
            made.append(pod_id)

        await self._phase("RunPodSandbox", run, [""] * count)
        await self._phase("StopPodSandbox", self._stop, made)
        await self._phase("RemovePodSandbox", self._remove, made)

    async def _stop(self, pod_id: str) -> None:
        connection = self._target.connection
        await connection.call(connection.runtime.StopPodSandbox, StopPodSandboxRequest(pod_sandbox_id=pod_id))

    async def _remove(self, pod_id: str) -> None:
        connection = self._target.connection
        await connection.call(
            connection.runtime.RemovePodSandbox, RemovePodSandboxRequest(pod_sandbox_id=pod_id)
        )
        self._target.alive.discard(pod_id)

    async def _phase(self, name: str, work: Callable[[str], Awaitable[None]], pods: Iterable[str]) -> None:
        label = f"{name}, {self._at_once} at once"
        left = list(pods)
        count = len(left)

        async def worker() -> None:
            while left:
                pod = left.pop()
                began = time.perf_counter()
                await work(pod)
                self._samples.add(label, "ms", self._target.name, (time.perf_counter() - began) * 1000)

        began, cpu = time.perf_counter(), cpu_seconds()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(worker())
        took, used = time.perf_counter() - began, cpu_seconds() - cpu
        self._samples.add(f"{label}, for one pod", "ms", self._target.name, took * 1000 / count)
        self._samples.add(f"{label}, machine CPU for one pod", "ms", self._target.name, used * 1000 / count)
