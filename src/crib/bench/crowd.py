"""The order of `crib bench crowd`: start processes of callers, let them begin together, and await them.

Meanwhile it measures how long Version takes, called at fixed times even if the previous call has no answer
yet. It also measures how much the crowd does per second, from its first call to its last answer. The crowd
and the programs of the runtimes compete for all CPUs. So the caller of Version has real-time priority:
otherwise it would measure its own wait for a CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from crib.bench import figures
from crib.bench.callers import Order, Outcome
from crib.bench.figures import Samples
from crib.bench.options import CrowdPart
from crib.bench.place import BenchPlace
from crib.bench.target import BenchTarget
from crib.bench.turns import carried_out, load_warnings, report, rotated, say
from crib.client import ClientError
from crib.stubs.runtime.v1.api_pb2 import VersionRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crib.bench.options import CrowdOptions

CALLERS = (10, 100, 200)
PROCESSES = 4
"""Maximum processes of callers. A single one would be the slowest part of the bench."""
INTERVAL = 0.05
"""Seconds between two calls of Version."""
IDLE_SECONDS = 2.0
"""Seconds for which Version is called without a crowd."""
CLEAN_LIMIT = 300.0
"""Seconds that the end of a process may take."""


class CrowdBench:
    """One run of the bench."""

    def __init__(self, options: CrowdOptions, default_endpoint: str) -> None:
        self._options = options
        self._default_endpoint = default_endpoint
        self._place = BenchPlace()
        self.samples = Samples()
        self.warnings: list[str] = []

    async def run(self) -> None:
        """Everything; ClientError when a runtime fails."""
        options = self._options
        try:
            await self._prepare()
            self.warnings += load_warnings("before")
            for target in self._place:
                async with self._versions(target, "nobody else"):
                    await asyncio.sleep(IDLE_SECONDS)
            for part in options.only or list(CrowdPart):
                for callers in options.callers or CALLERS:
                    for number in range(options.rounds):
                        for target in rotated(self._place.targets, number):
                            await self._round(target, part, callers)
        finally:
            await asyncio.shield(self._place.clean())

    async def _prepare(self) -> None:
        for text in self._options.endpoints or [f"crib={self._default_endpoint}"]:
            target = await self._place.reach(text, self._options.image, self._options.pids)
            target.handler = self._options.handler
            await target.prepare()

    async def _round(self, target: BenchTarget, part: CrowdPart, callers: int) -> None:
        label = f"{callers} callers, {part}"
        say(f"{target.name}: {label}")
        processes: list[CallerProcess] = []
        try:
            for order in self._orders(target, part, callers):
                processes.append(await CallerProcess.started(order))  # noqa: PERF401  # ended if a later one fails
            async with self._versions(target, label):
                began = time.perf_counter()
                for process in processes:
                    process.begin()
                done = sum([await process.done() for process in processes])
                took = time.perf_counter() - began
            self.samples.add(label, "1/s", target.name, done / took)
        except ClientError as error:
            raise ClientError(f"{target.name}: {label}: {error}") from error
        finally:
            await asyncio.gather(*(process.end() for process in processes))

    def _orders(self, target: BenchTarget, part: CrowdPart, callers: int) -> list[Order]:
        """The crowd's work in shares that differ by at most one."""
        lives = max(callers, self._options.number) if part is CrowdPart.LIVES else 0
        seconds = self._options.seconds if part is CrowdPart.LISTS else 0.0
        count = min(PROCESSES, callers)
        return [
            Order(
                endpoint=target.connection.endpoint,
                directory=self._place.directory,
                image=target.image,
                handler=target.handler,
                callers=callers // count + (number < callers % count),
                lives=lives // count + (number < lives % count),
                seconds=seconds,
            )
            for number in range(count)
        ]

    @contextlib.asynccontextmanager
    async def _versions(self, target: BenchTarget, label: str) -> AsyncIterator[None]:
        """Version is called at fixed times until the block ends; each call is a sample."""
        calls: set[asyncio.Task[None]] = set()

        async def one() -> None:
            began = time.perf_counter()
            await target.connection.call(target.connection.runtime.Version, VersionRequest())
            took = (time.perf_counter() - began) * 1000
            self.samples.add(f"Version, {label}", "ms", target.name, took)

        async def tick() -> None:
            while True:
                calls.add(asyncio.ensure_future(one()))
                await asyncio.sleep(INTERVAL)

        ticking = asyncio.ensure_future(tick())
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.gather(*calls)

    @property
    def names(self) -> list[str]:
        """The columns of the table."""
        return self._place.names


class CallerProcess:
    """One `crib.bench.callers`, from its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders, self._words = process.stdin, process.stdout

    @classmethod
    async def started(cls, order: Order) -> CallerProcess:
        """Connected, and ready to begin; ClientError when it is not."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(  # noqa: TID251  # bench is outside the daemon
            sys.executable,
            *("-m", "crib.bench.callers"),
            stdin=pipe,
            stdout=pipe,
            limit=1 << 24,
            # Ctrl-C is for the bench, which ends the callers
            start_new_session=True,
        )
        self = cls(process)
        self._orders.write(json.dumps(asdict(order)).encode() + b"\n")
        try:
            await self._line()
        except BaseException:
            await self.end()
            raise
        return self

    def begin(self) -> None:
        """Not awaited: all processes are to begin together."""
        self._orders.write(b"begin\n")

    async def done(self) -> int:
        """How often its callers did their work; ClientError if they failed."""
        outcome = Outcome(**json.loads(await self._line()))
        for failure in outcome.left:
            say(f"crib: {failure}")
        if outcome.error:
            raise ClientError(outcome.error)
        return outcome.done

    async def _line(self) -> bytes:
        line = await self._words.readline()
        if not line:
            raise ClientError("a process of callers ended early")
        return line

    async def end(self) -> None:
        """Close its input, on which it removes its pods; it is killed if that takes too long."""
        self._orders.close()
        try:
            async with asyncio.timeout(CLEAN_LIMIT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def go_before_all() -> None:
    """Take real-time priority. All threads that are made from now on inherit it; `callers` lays it down."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        say("no real-time priority: times of Version include the bench's own wait for a CPU")


async def run(options: CrowdOptions, default_endpoint: str) -> None:
    """`crib bench crowd`: measure, write the table to standard output and JSON where it is asked for."""
    bench = CrowdBench(options, default_endpoint)
    await carried_out(bench.run())
    report(figures.Report(bench.samples, bench.names, options, bench.warnings))
