"""The order of `crib bench streams`: a pod in each runtime, warm up, measure in turn, report; and clean up.

What is measured, for each transport that a runtime speaks:

round trips  `crib.client` from the call (Exec, Attach, PortForward) to the exit code and the end of all
             output, or to the echo; closing the connection does not count. The client's own CPU is told.
floods       payload bytes from open streams to the outcome, with sockets read and written as plainly as can
             be (see `flows`), and what all of the machine and we ourselves spend of CPU meanwhile
a crowd      so many commands at once, from the first call to the last exit code; then as many sessions that
             stay open, and what the daemon's memory grew by since before
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crib.bench import figures
from crib.bench.figures import Samples
from crib.bench.options import StreamPart
from crib.bench.place import BenchPlace
from crib.bench.stream_pod import BLOCK, StreamPod
from crib.bench.turns import carried_out, load_warnings, report, rotated, say
from crib.client import ClientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crib.bench.options import StreamsOptions

WARM_UP = 2
"""Round trips of each kind that are not counted."""
STOP_LIMIT = 120.0
"""Seconds that stopping all pods may take."""


class StreamBench:
    """One run of the bench."""

    def __init__(self, options: StreamsOptions, default_endpoint: str) -> None:
        self._options = options
        self._default_endpoint = default_endpoint
        self._place = BenchPlace()
        self.samples = Samples()
        self.warnings: list[str] = []
        self._pods: list[StreamPod] = []

    async def run(self) -> None:
        """Everything; ClientError when a runtime fails."""
        options, parts = self._options, set(self._options.only or list(StreamPart))
        try:
            await self._prepare()
            self.warnings += load_warnings("before")
            if StreamPart.ROUND_TRIPS in parts:
                await self._turns("round trip", options.number, WARM_UP, StreamPod.round_trips)
            if StreamPart.FLOODS in parts:
                await self._turns("flood", options.rounds, 1, StreamPod.floods)
            if StreamPart.CROWD in parts:
                await self._turns("crowd", options.rounds, 1, lambda pod: pod.crowd(options.sessions))
            self.warnings += self.samples.noisy()
        finally:
            await asyncio.shield(self._clean())

    async def _prepare(self) -> None:
        options = self._options
        blocks = max(1, options.size * 1_000_000 // BLOCK)
        for text in options.endpoints or [f"crib={self._default_endpoint}"]:
            target = await self._place.reach(text, options.image, options.pids)
            await target.prepare()
            pod = StreamPod(target, blocks, self.samples)
            self._pods.append(pod)
            await pod.prepare()

    async def _turns(
        self, what: str, rounds: int, warm_up: int, work: Callable[[StreamPod], Awaitable[None]]
    ) -> None:
        for number in range(-warm_up, rounds):
            say(f"\r{what} {max(0, number + 1)} of {rounds} ", end="")
            for pod in rotated(self._pods, number):
                pod.counts = number >= 0
                try:
                    await work(pod)
                except (ClientError, TimeoutError) as error:
                    raise ClientError(f"{pod.target.name}: {what}: {error or 'too slow'}") from error
        say("")

    async def _clean(self) -> None:
        with contextlib.suppress(TimeoutError):  # removing the pods will say what is wrong
            async with asyncio.timeout(STOP_LIMIT):
                for pod in self._pods:
                    await pod.stop()
        await self._place.clean()

    @property
    def names(self) -> list[str]:
        """The columns of the table."""
        return self._place.names


async def run(options: StreamsOptions, default_endpoint: str) -> None:
    """`crib bench streams`: measure, write the table to standard output and JSON where it is asked for."""
    bench = StreamBench(options, default_endpoint)
    await carried_out(bench.run())
    report(figures.Report(bench.samples, bench.names, options, bench.warnings))
