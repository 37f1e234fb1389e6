"""The order of `crib bench pull`: reach the runtimes, warm up, measure in turn, report; and restore."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from crib.bench import report
from crib.bench.figures import Samples
from crib.bench.pull_round import Puller
from crib.bench.turns import first_error, load_warnings, reach, rotated, say
from crib.client import ClientError, Connection

if TYPE_CHECKING:
    from crib.bench.options import PullBenchOptions

RESTORE_LIMIT = 300.0
"""Seconds that leaving everything as it was may take."""


class PullBench:
    """One run of the bench."""

    def __init__(self, options: PullBenchOptions, default_endpoint: str) -> None:
        self._options = options
        self._default_endpoint = default_endpoint
        self._connections: list[Connection] = []
        self._images = list(dict.fromkeys(options.images))
        self.samples = Samples()
        self.warnings: list[str] = []
        self.pullers: list[Puller] = []

    async def run(self) -> None:
        """Everything; ClientError when a runtime fails."""
        try:
            await self._prepare()
            self.warnings += load_warnings("before")
            labels = short_names(self._images)
            for number in range(self._options.number):
                for image in self._images:
                    for puller in rotated(self.pullers, number):
                        say(
                            f"\rround {number + 1} of {self._options.number}, {puller.name}: {image} ", end=""
                        )
                        await puller.round(image, labels[image], self.samples)
            say("")
            self.warnings += self.samples.noisy()
        finally:
            await asyncio.shield(self._restore())

    async def _prepare(self) -> None:
        for text in self._options.endpoints or [f"crib={self._default_endpoint}"]:
            endpoint = await reach(text, self._options.pids)
            second = Connection(endpoint.connection.endpoint)
            self._connections += [endpoint.connection, second]
            puller = Puller(endpoint, second)
            self.pullers.append(puller)
            for image in self._images:
                say(f"{puller.name}: {image}, once without a stopwatch")
                await puller.prepare(image)

    async def _restore(self) -> None:
        failures: list[str] = []
        for puller in self.pullers:
            for image in self._images:
                try:
                    async with asyncio.timeout(RESTORE_LIMIT):
                        await puller.restore(image)
                except (ClientError, TimeoutError) as error:
                    failures.append(f"{puller.name}: image {image} is not as it was: {error or 'too slow'}")
        for connection in self._connections:
            await connection.close()
        for failure in failures:
            say(f"crib: {failure}")


def short_names(names: list[str]) -> dict[str, str]:
    """What rows call the images: the last part of each name, or the names where those would be alike."""
    short = {name: os.path.basename(name) for name in names}
    return short if len(set(short.values())) == len(names) else {name: name for name in names}


async def run(options: PullBenchOptions, default_endpoint: str) -> None:
    """`crib bench pull`: measure, write the table to standard output and JSON where it is asked for."""
    bench = PullBench(options, default_endpoint)
    began = time.monotonic()
    try:
        await bench.run()
    except ExceptionGroup as group:
        raise first_error(group) from group
    say(f"took {time.monotonic() - began:.0f} s")
    names = [puller.name for puller in bench.pullers]
    report.write(report.Report(bench.samples, names, options, bench.warnings), options.json)
