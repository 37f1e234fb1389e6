"""Layers on their way to the staging directory: each is fetched once for all requests that want it, and
undone when nobody does.

Runs in the worker. Names are relative: the staging directory is the worker's working directory, the only
place where it may write.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from crib.backends.images.messages import LayerTerms, staged_name
from crib.backends.images.worker.documents import FoundLayer
from crib.backends.images.worker.download import BlobClient, SharedRate
from crib.backends.images.worker.layers import LayerFacts, write_layer
from crib.backends.images.worker.pulling import LayerJob, PulledLayer
from crib.backends.images.worker.shares import TransferShares, Writers
from crib.model.ids import Digest
from crib.model.image import Layer, Progress
from crib.tasks.groups import Group

_REPORT_EVERY = 0.2

LayerProgress = Callable[[Progress], None]


class Stopped(Exception):
    """A thread was told to stop."""


@dataclass(frozen=True, slots=True)
class RegistryOrigin:
    """A blob that hosts have."""

    client: BlobClient


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """A blob in a file, read by the thread that writes the layer."""

    chunks: Callable[[], Iterator[bytes]]
    """From the beginning at each call."""


LayerOrigin = RegistryOrigin | FileOrigin


@dataclass(slots=True)
class _Flight:
    """A layer that is being written, for everybody who wants it."""

    layer: FoundLayer
    result: asyncio.Future[Layer]
    listeners: list[LayerProgress] = field(default_factory=list)
    waiting: int = 0
    task: asyncio.Task[None] | None = None
    last: Progress = field(default_factory=lambda: Progress(""))
    told: float = 0.0

    def report(self, stage: str, done: int, host: str) -> None:
        """Tell everybody, but not more often than anybody can see."""
        now = time.monotonic()
        changed = stage != self.last.stage or (host and not self.last.host)
        if not changed and now - self.told < _REPORT_EVERY and done != self.layer.size:
            return
        self.told = now
        host = host or self.last.host
        self.last = Progress(stage, self.layer.diff_id, done, self.layer.size, host)
        for listener in self.listeners:
            listener(self.last)


@dataclass(slots=True)
class _Staged:
    """A finished layer, until the daemon has it or nobody wants it."""

    layer: Layer
    claims: int = 0
    """Requests that count on it and are not answered yet."""
    handed: set[int] = field(default_factory=set)
    """Requests whose answer named it and which the daemon is taking over."""
    adopted: bool = False
    """The daemon has it: it lies here no more."""


class LayerTransfers:
    """All layers that the worker is writing; `group` runs the work, so that it outlives its first caller.
    `memory` is what the worker may use (bytes; 0: no limit)."""

    def __init__(self, group: Group, memory: int = 0) -> None:
        self._group = group
        self._writers = Writers(memory)
        self._shares = TransferShares()
        self._bandwidth = SharedRate()
        self._flights: dict[tuple[Digest, Digest | None], _Flight] = {}
        self._staged: dict[Digest, _Staged] = {}
        self._spooling: set[Digest] = set()
        self._serial = itertools.count()

    async def obtain(
        self, layer: FoundLayer, origin: LayerOrigin, terms: LayerTerms, listener: LayerProgress
    ) -> Layer:
        """The layer, staged; whoever asks for the same one meanwhile or soon after shares the work.

        It is claimed for the caller: `release` it, whatever becomes of the request.
        """
        self._bandwidth.rate = terms.transfer.bandwidth
        while True:
            if (staged := self._staged.get(layer.diff_id)) is not None:
                staged.claims += 1
                return replace(staged.layer, blob_digest=layer.blob_digest or staged.layer.blob_digest)
            flight, own = self._join(layer, origin, terms)
            try:
                await self._wait(flight, listener)
            except Exception:
                # It went wrong with another request's connections, which may be closed: once more with
                # one's own.
                if own:
                    raise

    def holds(self, diff_id: Digest) -> bool:
        """Whether a layer that somebody obtained is still to be counted on."""
        return diff_id in self._staged

    def release(self, number: int, layers: Iterable[Digest], *, handed_over: bool) -> None:
        """Request `number` is answered: with `handed_over` the daemon takes its layers, else unclaimed ones
        go."""
        for diff_id in layers:
            if (staged := self._staged.get(diff_id)) is not None:
                staged.claims -= 1
                if handed_over:
                    staged.handed.add(number)
                self._drop_unwanted(diff_id, staged)

    def taken(self, number: int, *, adopted: bool) -> list[Layer]:
        """The daemon has done with what request `number` left; the layers that it has now."""
        theirs = [(key, staged) for key, staged in self._staged.items() if number in staged.handed]
        for diff_id, staged in theirs:
            staged.handed.discard(number)
            if adopted:
                staged.adopted = True
            elif not staged.adopted and not os.path.exists(staged_name(diff_id)):
                # It did not pass the daemon's check: whoever counts on it has to fetch it.
                del self._staged[diff_id]
                continue
            self._drop_unwanted(diff_id, staged)
        return [staged.layer for _, staged in theirs] if adopted else []

    def close(self) -> None:
        """End the threads; nothing may be under way."""
        self._writers.close()

    def _drop_unwanted(self, diff_id: Digest, staged: _Staged) -> None:
        if staged.claims > 0 or staged.handed:
            return
        del self._staged[diff_id]
        if not staged.adopted:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged_name(diff_id))

    def _join(self, layer: FoundLayer, origin: LayerOrigin, terms: LayerTerms) -> tuple[_Flight, bool]:
        key = layer.diff_id, layer.blob_digest
        flight = self._flights.get(key)
        if flight is not None:
            return flight, False
        flight = _Flight(layer, asyncio.get_running_loop().create_future())
        self._flights[key] = flight
        flight.task = self._group.start(
            f"transfer of layer {layer.diff_id}", self._fly(flight, origin, terms)
        )
        return flight, True

    async def _wait(self, flight: _Flight, listener: LayerProgress) -> None:
        """Until the layer is staged; nobody has claimed it then, so do it before anything else."""
        flight.listeners.append(listener)
        flight.waiting += 1
        try:
            await asyncio.shield(flight.result)
        except asyncio.CancelledError:
            flight.waiting -= 1
            if flight.waiting == 0:
                await self._abandon(flight)
            raise
        except Exception:
            flight.waiting -= 1
            raise
        finally:
            flight.listeners.remove(listener)

    async def _abandon(self, flight: _Flight) -> None:
        self._forget(flight)
        if not flight.result.done() and flight.task is not None:
            flight.task.cancel()
            await asyncio.wait([flight.task])
        elif (staged := self._staged.get(flight.layer.diff_id)) is not None:
            self._drop_unwanted(flight.layer.diff_id, staged)

    def _forget(self, flight: _Flight) -> None:
        key = flight.layer.diff_id, flight.layer.blob_digest
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _fly(self, flight: _Flight, origin: LayerOrigin, terms: LayerTerms) -> None:
        try:
            flight.report("waiting", 0, "")
            layer = await self._write(flight, origin, terms)
        except asyncio.CancelledError:
            self._forget(flight)
            flight.result.cancel()
            raise
        except BaseException as error:  # those who wait get it; the task group must not end because of it
            self._forget(flight)
            flight.result.set_exception(error)
            # Somebody may have given up in the same moment; an error that nobody takes is not worth a log
            # line.
            flight.result.exception()
        else:
            self._forget(flight)
            flight.result.set_result(layer)

    async def _write(self, flight: _Flight, origin: LayerOrigin, terms: LayerTerms) -> Layer:
        temporary = f"partial-{next(self._serial)}"
        job = LayerJob(flight.layer, terms, temporary, self._writers, flight.report)
        if isinstance(origin, RegistryOrigin):
            async with self._shares.share(origin.client.registry, origin.client):
                facts = await self._pulled(job, origin.client)
        else:
            facts = await _imported(job, origin.chunks)
        if flight.waiting == 0:
            os.unlink(temporary)
            raise asyncio.CancelledError
        layer = _layer(facts)
        if layer.diff_id in self._staged:
            # From a blob of another digest, by another request.
            os.unlink(temporary)
        else:
            os.rename(temporary, staged_name(layer.diff_id))
            self._staged[layer.diff_id] = _Staged(layer)
        return layer

    async def _pulled(self, job: LayerJob, client: BlobClient) -> LayerFacts:
        digest = job.layer.blob_digest
        assert digest is not None
        # Two layers may claim one blob, of which one lies.
        spool_name = f"{job.temporary}.spool" if digest in self._spooling else ""
        if not spool_name:
            self._spooling.add(digest)
        try:
            return await PulledLayer(job, client, self._bandwidth, spool_name).fetch()
        finally:
            if not spool_name:
                self._spooling.discard(digest)


def _layer(facts: LayerFacts) -> Layer:
    return Layer(
        Digest(facts.diff_id),
        Digest(facts.blob_digest),
        facts.file_size,
        data_size=facts.data_size,
        data_digest=facts.data_digest,
        rest_digest=facts.rest_digest,
    )


async def _imported(job: LayerJob, chunks: Callable[[], Iterator[bytes]]) -> LayerFacts:
    """The layer, written from a file of which the thread reads itself."""
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    job.check_space(job.layer.size)

    def told(done: int) -> None:
        job.report("importing", done, "")

    def source() -> Iterator[bytes]:
        done = 0
        reported = 0.0
        for chunk in chunks():
            yield chunk
            done += len(chunk)
            now = time.monotonic()
            if now - reported >= _REPORT_EVERY or done == job.layer.size:
                reported = now
                loop.call_soon_threadsafe(told, done)

    def check() -> None:
        if stop.is_set():
            raise Stopped

    def write() -> LayerFacts:
        return write_layer(source(), job.temporary, job.claims, job.options, check)

    return await job.writers.write_whole(lambda: job.writers.run(write, stop.set, job.temporary))
