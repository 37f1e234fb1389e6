"""Layers on their way to the staging directory: shared by the requests that want them, undone on failure.

Runs in the worker. The loop brings bytes (from registries), threads write layers; `ChunkPipe` is between
them. Names are relative: the staging directory is the worker's working directory, the only place where it
may write.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from crib.backends.images.documents import FoundLayer
from crib.backends.images.layers import LayerClaims, LayerFacts, LayerOptions, write_layer
from crib.backends.images.messages import TransferLimits, staged_name
from crib.model.ids import Digest
from crib.model.image import Layer, Progress

MAX_THREADS = 8
"""Layers that are written at once, over all requests; each has two more threads while it is written."""
_PIPE_BYTES = 4 << 20
_REPORT_EVERY = 0.2

LayerProgress = Callable[[Progress], None]


class PipeClosed(Exception):
    """The thread at the other end takes no more; its own error tells why."""


class ChunkPipe:
    """Bytes from the loop to one thread, at most some megabytes of them waiting."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._condition = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._room: asyncio.Event = asyncio.Event()

    async def put(self, chunk: bytes) -> None:
        """Hand over a piece; waits while the pipe is full. PipeClosed when nobody reads any more."""
        with self._condition:
            if self._closed:
                raise PipeClosed
            self._chunks.append(chunk)
            self._bytes += len(chunk)
            full = self._bytes >= _PIPE_BYTES
            if full:
                self._room.clear()
            self._condition.notify()
        if full:
            await self._room.wait()

    def end(self, error: BaseException | None = None) -> None:
        """No more will come; with `error` the thread gets that instead of the end."""
        with self._condition:
            self._ended = True
            self._error = error
            self._condition.notify()

    @property
    def ended(self) -> bool:
        """Whether the loop said that no more will come."""
        return self._ended

    def close(self) -> None:
        """The thread takes no more. Called from the thread."""
        with self._condition:
            self._closed = True
            self._chunks.clear()
        self._wake()

    def chunks(self) -> Iterator[bytes]:
        """For the thread: the pieces until the end; blocks."""
        while True:
            with self._condition:
                while not self._chunks and not self._ended:
                    self._condition.wait()
                if self._error is not None:
                    raise self._error
                if not self._chunks:
                    return
                chunk = self._chunks.popleft()
                self._bytes -= len(chunk)
                if self._bytes < _PIPE_BYTES // 2:
                    self._wake()
            yield chunk

    def _wake(self) -> None:
        if not self._room.is_set():
            with contextlib.suppress(RuntimeError):  # the loop has ended, so nobody waits
                self._loop.call_soon_threadsafe(self._room.set)


@dataclass(slots=True)
class _Flight:
    """A layer that is being written, for everybody who wants it."""

    layer: FoundLayer
    result: asyncio.Future[Layer]
    listeners: list[LayerProgress] = field(default_factory=list)
    waiting: int = 0
    task: asyncio.Task[None] | None = None

    def report(self, done: int, host: str) -> None:
        stage = "downloading" if host else "importing"
        progress = Progress(stage, self.layer.diff_id, done, self.layer.size, host)
        for listener in self.listeners:
            listener(progress)


class LayerTransfers:
    """All layers that the worker is writing; `group` runs the work, so that it outlives its first caller."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="layer")
        self._slots = asyncio.Semaphore(MAX_THREADS)
        self._flights: dict[tuple[Digest, Digest | None], _Flight] = {}
        self._claims: Counter[str] = Counter()
        self._handed_over: set[str] = set()
        self._serial = itertools.count()

    async def obtain(
        self, layer: FoundLayer, origin: LayerOrigin, limits: TransferLimits, listener: LayerProgress
    ) -> Layer:
        """The layer, staged; whoever asks for the same one meanwhile shares the work.

        The staged file is claimed for the caller: `release` it, whatever becomes of the request.
        """
        while True:
            flight, own = self._join(layer, origin, limits)
            try:
                return await self._wait(flight, listener)
            except Exception:
                # It went wrong with another request's connections, which may be closed: once more with
                # one's own.
                if own:
                    raise

    def _join(self, layer: FoundLayer, origin: LayerOrigin, limits: TransferLimits) -> tuple[_Flight, bool]:
        key = layer.diff_id, layer.blob_digest
        flight = self._flights.get(key)
        if flight is not None:
            return flight, False
        flight = _Flight(layer, asyncio.get_running_loop().create_future())
        self._flights[key] = flight
        flight.task = self._group.create_task(self._fly(flight, origin, limits))
        return flight, True

    async def _wait(self, flight: _Flight, listener: LayerProgress) -> Layer:
        name = staged_name(flight.layer.diff_id)
        flight.listeners.append(listener)
        flight.waiting += 1
        try:
            layer = await asyncio.shield(flight.result)
            self._claims[name] += 1
            return layer
        finally:
            flight.waiting -= 1
            flight.listeners.remove(listener)
            if flight.waiting == 0:
                self._forget(flight)
                if not flight.result.done() and flight.task is not None:
                    flight.task.cancel()
                    await asyncio.wait([flight.task])

    def _forget(self, flight: _Flight) -> None:
        key = flight.layer.diff_id, flight.layer.blob_digest
        if self._flights.get(key) is flight:
            del self._flights[key]

    def release(self, layers: Iterable[Digest], *, handed_over: bool) -> None:
        """A request is over: with `handed_over` the daemon takes its files, else unclaimed ones go."""
        for diff_id in layers:
            name = staged_name(diff_id)
            self._claims[name] -= 1
            if handed_over:
                self._handed_over.add(name)
            if self._claims[name] > 0:
                continue
            del self._claims[name]
            if name in self._handed_over:
                self._handed_over.discard(name)
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def close(self) -> None:
        """End the threads; nothing may be under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _fly(self, flight: _Flight, origin: LayerOrigin, limits: TransferLimits) -> None:
        try:
            async with self._slots:
                layer = await self._write(flight, origin, limits)
        except asyncio.CancelledError:
            flight.result.cancel()
            raise
        except BaseException as error:  # whoever waits gets it; the task group must not end for it
            self._forget(flight)
            flight.result.set_exception(error)
            # Somebody may have given up in the same moment; an error that nobody takes is not worth a log
            # line.
            flight.result.exception()
        else:
            flight.result.set_result(layer)

    async def _write(self, flight: _Flight, origin: LayerOrigin, limits: TransferLimits) -> Layer:
        loop = asyncio.get_running_loop()
        pipe = ChunkPipe()
        temporary = f"partial-{next(self._serial)}"
        counted = _Counted(flight, loop)
        if isinstance(origin, StreamOrigin):
            source = counted.count(pipe.chunks())
        else:
            source = counted.count(_stoppable(origin.chunks, pipe))
        work = loop.run_in_executor(
            self._pool, _write_and_close, pipe, source, temporary, flight.layer, limits
        )
        try:
            if isinstance(origin, StreamOrigin):
                async with contextlib.aclosing(origin.stream) as stream:
                    async for chunk, host in stream:
                        counted.host = host
                        await pipe.put(chunk)
                pipe.end()
            facts = await asyncio.shield(work)
        except PipeClosed:
            facts = await work
        except BaseException as error:
            pipe.end(error if isinstance(error, Exception) else PipeClosed())
            # The thread must have let go of its file before anybody is told.
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await work
            # It may have come to its end in the very moment that it was told to stop.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        if flight.waiting == 0:
            os.unlink(temporary)
            raise asyncio.CancelledError
        os.rename(temporary, staged_name(facts.diff_id))
        return Layer(Digest(facts.diff_id), Digest(facts.blob_digest), facts.file_size)


@dataclass(frozen=True, slots=True)
class StreamOrigin:
    """A blob that the loop brings, each piece with the host that it came from."""

    stream: AsyncGenerator[tuple[bytes, str], None]


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """A blob in a file, read by the thread that writes the layer."""

    chunks: Iterator[bytes]


LayerOrigin = StreamOrigin | FileOrigin


class _Counted:
    """Counts the bytes that a thread took and tells the flight now and then."""

    def __init__(self, flight: _Flight, loop: asyncio.AbstractEventLoop) -> None:
        self._flight = flight
        self._loop = loop
        self.host = ""

    def count(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        done = 0
        told = 0.0
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            now = time.monotonic()
            if now - told >= _REPORT_EVERY or done == self._flight.layer.size:
                told = now
                self._loop.call_soon_threadsafe(self._flight.report, done, self.host)


def _stoppable(chunks: Iterator[bytes], pipe: ChunkPipe) -> Iterator[bytes]:
    """The pieces of a file, until the loop ends the pipe."""
    for chunk in chunks:
        if pipe.ended:
            raise PipeClosed
        yield chunk


def _write_and_close(
    pipe: ChunkPipe, source: Iterator[bytes], path: str, layer: FoundLayer, limits: TransferLimits
) -> LayerFacts:
    claims = LayerClaims(layer.blob_digest or "", layer.size, layer.diff_id)
    options = LayerOptions(
        block_size=limits.block_size,
        max_bytes=limits.max_layer_bytes,
        max_ratio=limits.max_ratio,
        sync=True,
    )
    try:
        return write_layer(source, path, claims, options)
    finally:
        pipe.close()
