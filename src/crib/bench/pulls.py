"""`crib bench pull`: an image's pulls and removals under a stopwatch, by several runtimes in turn.

Images that were on the node before are there again at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING

from crib.bench import figures, memory
from crib.bench.figures import Samples
from crib.bench.lives import cpu_seconds
from crib.bench.turns import carried_out, load_warnings, reach, report, rotated, say
from crib.client import ClientError, Connection, images, lookup
from crib.stubs.runtime.v1.api_pb2 import ListImagesRequest, VersionRequest

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from crib.bench.options import PullBenchOptions
    from crib.bench.turns import Endpoint

EVERY = 0.005
"""Seconds from one call of Version to the next one. It is made whether or not the last one was answered: a
daemon that stops for a while would else be asked least when it is slowest."""
MOST_AT_ONCE = 256
"""Calls of Version that wait; beyond that none is added, as the gap shows in those that wait."""
IDLE_SECONDS = 0.5
"""How long Version is called while nothing is pulled, for comparison."""
PRESENT_PULLS = 3
LISTS = 10
"""Calls of a round for what takes a few milliseconds only."""


class Puller:
    """One runtime. `second` is a separate connection for Version, so that it waits for no other call."""

    def __init__(self, endpoint: Endpoint, second: Connection) -> None:
        self.name = endpoint.name
        self._connection = endpoint.connection
        self._pid = endpoint.pid
        self._second = second
        self._ids: dict[str, str] = {}
        self._begun: set[str] = set()
        self._kept: set[str] = set()

    async def prepare(self, image: str) -> None:
        """Pull once, uncounted. ClientError when removing the image would take something from others."""
        found = await images.find(self._connection, image)
        if found is not None:
            self._kept.add(image)
            await self._refuse_shared(image, found.id, len(found.repo_tags))
        there = {each.id for each in await images.list_images(self._connection)}
        await self._pull(image)
        if found is None and self._ids[image] in there:
            self._kept.add(image)
            raise ClientError(
                f"{self.name}: {image} is already here under another name, which RemoveImage would remove too"
            )

    async def _refuse_shared(self, image: str, image_id: str, names: int) -> None:
        if names > 1:
            raise ClientError(f"{self.name}: {image} has other names too, which RemoveImage would remove")
        for container in await lookup.containers(self._connection):
            if image_id in (container.image_id, container.image.image):
                raise ClientError(f"{self.name}: {image} is used by container {container.id[:12]}")

    async def round(self, image: str, label: str, samples: Samples) -> None:
        """Two cold pulls: the first alone, the second under calls of Version; and what lies between."""
        add = samples.add
        add(f"RemoveImage {label}", "ms", self.name, await self._remove(image))
        await self._cold(image, label, samples)
        for _ in range(PRESENT_PULLS):
            add(f"PullImage {label}, present", "ms", self.name, await self._pull(image))
        await self._lists(samples)
        add(f"RemoveImage {label}", "ms", self.name, await self._remove(image))
        await asyncio.to_thread(os.sync)
        for took in await self._versions(asyncio.sleep(IDLE_SECONDS)):
            add("Version, nothing pulled", "ms", self.name, took)
        for took in await self._versions(self._pull(image)):
            add(f"Version, PullImage {label}", "ms", self.name, took)

    async def _cold(self, image: str, label: str, samples: Samples) -> None:
        def add(metric: str, unit: str, value: float) -> None:
            samples.add(metric, unit, self.name, value)

        await asyncio.to_thread(os.sync)  # earlier writes must not count here
        before = self._watch_memory()
        began, cpu = time.perf_counter(), cpu_seconds()
        took = await self._pull(image)
        cpu = cpu_seconds() - cpu
        await asyncio.to_thread(os.sync)
        add(f"PullImage {label}, cold", "ms", took)
        add(f"PullImage {label}, cold, with sync(2)", "ms", (time.perf_counter() - began) * 1000)
        add(f"machine CPU, PullImage {label}", "ms", cpu * 1000)
        if self._pid:
            peak = memory.peak_rss_mib(self._pid)
            add(f"daemon RSS peak, PullImage {label}", "MiB", peak)
            add(f"daemon RSS grown, PullImage {label}", "MiB", max(0.0, peak - before))
            workers = memory.image_workers(self._pid)
            if workers:
                add(f"worker RSS peak, PullImage {label}", "MiB", sum(map(memory.peak_rss_mib, workers)))

    def _watch_memory(self) -> float:
        """Begin to look for peaks; the daemon's memory now, in MiB."""
        if not self._pid:
            return 0.0
        for pid in (self._pid, *memory.image_workers(self._pid)):
            memory.forget_peak(pid)
        return memory.rss_mib(self._pid)

    async def _lists(self, samples: Samples) -> None:
        connection = self._connection
        for _ in range(LISTS):
            began = time.perf_counter()
            reply = await connection.call(connection.image.ListImages, ListImagesRequest())
            samples.add("ListImages", "ms", self.name, (time.perf_counter() - began) * 1000)
        samples.add("images that ListImages shows", "images", self.name, len(reply.images))

    async def _pull(self, image: str) -> float:
        """Milliseconds; also when the image is here."""
        self._begun.add(image)
        began = time.perf_counter()
        image_id = await images.pull(self._connection, image)
        took = (time.perf_counter() - began) * 1000
        self._begun.discard(image)
        self._ids[image] = image_id
        return took

    async def _remove(self, image: str) -> float:
        """Milliseconds. By id, as a kubelet does it."""
        began = time.perf_counter()
        await images.remove(self._connection, self._ids[image])
        return (time.perf_counter() - began) * 1000

    async def _versions(self, work: Coroutine[Any, Any, object]) -> list[float]:
        """Milliseconds of each call of Version made until `work` is done."""
        times: list[float] = []
        waiting = 0

        async def one(began: float) -> None:
            nonlocal waiting
            waiting += 1
            try:
                await self._second.call(self._second.runtime.Version, VersionRequest())
            finally:
                waiting -= 1
            times.append((time.perf_counter() - began) * 1000)

        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            while not working.done():
                if waiting < MOST_AT_ONCE:
                    group.create_task(one(time.perf_counter()))
                await asyncio.sleep(EVERY)
        return times

    async def restore(self, image: str) -> None:
        """Leave the image as it was found: there or not."""
        if image in self._begun:
            with contextlib.suppress(ClientError):  # what failed once may fail again
                await self._pull(image)  # a pull whose caller left may go on, and bring the image later
        found = await images.find(self._connection, image)
        if found is None and image in self._kept:
            await self._pull(image)
        elif found is not None and image not in self._kept:
            await images.remove(self._connection, found.id)


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
    await carried_out(bench.run())
    names = [puller.name for puller in bench.pullers]
    report(figures.Report(bench.samples, names, options, bench.warnings))
