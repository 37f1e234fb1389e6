"""Who fetches which range of a blob from whom: one connection or several, and the next host when one fails.

A range resumes where it broke off, from the next host that is worth asking. What a host said is kept for the
error. Waiting for a busy host (429, 503) is the client's; here such a host is passed over.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from crib.backends.images.worker.connections import DamagedFailure, HostFailure, host_name
from crib.backends.images.worker.spool import Spool
from crib.model.errors import CribError
from crib.model.image_settings import TransferSettings
from crib.model.registry import RegistryHost
from crib.tasks.groups import Group

LARGE = 32 << 20
"""A blob of which so many bytes are missing is fetched in ranges."""
RANGE = 8 << 20
_MAX_BARREN = 2
_FIRST_PAUSE = 0.2
_RETRIED = (408, 425, 500, 502, 504)


class BlobBody(Protocol):
    """A response with a blob or a part of it."""

    start: int
    end: int | None
    total: int | None

    def chunks(self) -> AsyncGenerator[bytes, None]: ...
    def close(self) -> None: ...


class BlobClient(Protocol):
    """What is needed of the registry client; it stands for its pull."""

    registry: str

    def blob_hosts(self) -> Sequence[RegistryHost]: ...
    async def open_blob(self, host: RegistryHost, digest: str, start: int, end: int | None) -> BlobBody: ...
    def mark_dead(self, host: RegistryHost) -> None: ...
    def failure(self, what: str, failures: list[tuple[RegistryHost, HostFailure]]) -> CribError: ...


class SharedRate:
    """One token bucket for all transfers of the worker; they take turns in the order in which they come."""

    def __init__(self) -> None:
        self.rate = 0
        """Bytes a second; 0: no limit."""
        self._free_at = 0.0

    async def take(self, count: int) -> float:
        """Wait until `count` bytes more may come; the seconds that were waited."""
        if not self.rate:
            return 0.0
        now = asyncio.get_running_loop().time()
        start = max(self._free_at, now)
        self._free_at = start + count / self.rate
        if start > now:
            await asyncio.sleep(start - now)
        return start - now


@dataclass(slots=True)
class _Source:
    """One host, and how it has done."""

    host: RegistryHost
    order: int
    pace: Pace
    failure: HostFailure | None = None
    broken: int = 0
    """Failures so far: who has fewer is asked first."""
    barren: int = 0
    """Failures in a row that brought nothing to speak of."""
    out: bool = False
    ready_at: float = 0.0


@dataclass(slots=True)
class _Piece:
    """Bytes `at` to `end` are yet to come."""

    at: int
    end: int


@dataclass(frozen=True, slots=True)
class TransferTerms:
    """What a transfer keeps to, and who hears which host brought something."""

    limits: TransferSettings
    bandwidth: SharedRate
    told: Callable[[str], None]


class BlobDownload:
    """Brings the rest of one blob into its spool from some of the client's hosts."""

    def __init__(
        self, client: BlobClient, spool: Spool, terms: TransferTerms, hosts: Sequence[RegistryHost]
    ) -> None:
        self._client = client
        self._spool = spool
        self._limits = terms.limits
        self._terms = terms
        limits = terms.limits
        self._sources = [
            _Source(host, order, Pace(limits.min_rate, limits.stall_timeout))
            for order, host in enumerate(hosts)
        ]
        self._waiting: deque[_Piece] = deque()
        self._cursor = spool.edge
        self._ranged = asyncio.Event()
        self.used: list[RegistryHost] = []
        """Those that brought bytes."""

    async def run(self) -> None:
        """Until the spool has all. The client's error when no host is left to ask; Exhausted or OSError for
        the disk, SpoolClosed when nobody reads."""
        if self._cursor >= self._spool.size:
            return
        lanes = self._limits.parallel_ranges
        if lanes <= 1 or self._spool.size - self._cursor < LARGE:
            await self._fetch_all(_Piece(self._cursor, self._spool.size))
            return
        try:
            async with Group() as group:
                first = self._next()
                assert first is not None
                group.start("lane", self._lane(first))
                for _ in range(1, lanes):
                    group.start("lane", self._lane(None))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _lane(self, piece: _Piece | None) -> None:
        if piece is None:
            # Only when the first answer is here is it known that ranges are served.
            await self._ranged.wait()
            piece = self._next()
        while piece is not None:
            await self._fetch_all(piece)
            self._ranged.set()
            piece = self._next()

    def _next(self) -> _Piece | None:
        start = self._cursor
        if start >= self._spool.size:
            return None
        self._cursor = min(start + RANGE, self._spool.size)
        if self._spool.size - self._cursor < RANGE:
            self._cursor = self._spool.size
        return _Piece(start, self._cursor)

    async def _fetch_all(self, piece: _Piece) -> None:
        while piece.at < piece.end:
            source = await self._pick()
            before = piece.at
            try:
                await self._fetch(source, piece)
            except HostFailure as failure:
                self._judge(source, failure, piece.at - before, piece)
            else:
                source.barren = 0

    async def _pick(self) -> _Source:
        loop = asyncio.get_running_loop()
        while True:
            left = [source for source in self._sources if not source.out]
            if not left:
                failures = [(one.host, one.failure) for one in self._sources if one.failure is not None]
                raise self._client.failure(f"layer {self._spool.digest}", failures)
            now = loop.time()
            ready = [source for source in left if source.ready_at <= now]
            if ready:
                return min(ready, key=lambda source: (source.broken, source.order))
            await asyncio.sleep(min(source.ready_at for source in left) - now)

    def _judge(self, source: _Source, failure: HostFailure, gained: int, piece: _Piece) -> None:
        stalled = isinstance(failure, _Stalled)
        if stalled or isinstance(failure, _Slow):
            self._client.mark_dead(source.host)
        source.failure = failure
        source.broken += 1
        fruitful = not stalled and gained >= min(self._limits.stall_bytes, piece.end - piece.at + gained)
        source.barren = 0 if fruitful else source.barren + 1
        passing = failure.status == 0 or failure.status in _RETRIED
        passing = passing and not isinstance(failure, DamagedFailure)
        if not passing or source.barren >= _MAX_BARREN:
            source.out = True
        elif source.barren:
            spread = 0.5 + random.random()  # noqa: S311  # spreads load, protects nothing
            source.ready_at = asyncio.get_running_loop().time() + _FIRST_PAUSE * source.barren * spread

    async def _fetch(self, source: _Source, piece: _Piece) -> None:
        """Bytes for the piece from one host, until it is whole or the host fails."""
        whole = piece.at == 0 and piece.end == self._spool.size
        end = None if piece.end == self._spool.size else piece.end
        body = await self._client.open_blob(source.host, self._spool.digest, piece.at, None if whole else end)
        clock = asyncio.get_running_loop().time
        source.pace.begin(clock())
        try:
            self._check(body, piece)
            await self._receive(source, body, piece)
        finally:
            source.pace.end(clock())
            body.close()
        if piece.at < piece.end:
            text = f"closed the connection after {piece.at} of {self._spool.size} bytes"
            raise HostFailure(0, text)

    def _check(self, body: BlobBody, piece: _Piece) -> None:
        size = self._spool.size
        if body.total is not None and body.total != size:
            less = "more than the" if body.total > size else "less than the"
            raise DamagedFailure(200, f"has {body.total} bytes, {less} {size} bytes of the manifest")
        if body.start > piece.at:
            raise DamagedFailure(200, f"sends from {body.start} on, asked was {piece.at}")
        if body.start == piece.at and body.end is not None and body.end <= piece.end < size:
            self._ranged.set()
        elif piece.end == self._cursor:
            # It gives all that follows whatever it is asked, so one connection has to do.
            piece.end = self._cursor = size

    async def _receive(self, source: _Source, body: BlobBody, piece: _Piece) -> None:
        loop = asyncio.get_running_loop()
        limits, spool, host = self._limits, self._spool, source.host
        name = host_name(host)
        skip = piece.at - body.start
        recent = 0
        new = True
        chunks = body.chunks()
        try:
            async with asyncio.timeout(limits.stall_timeout) as stall:
                async for chunk in chunks:
                    recent += len(chunk)
                    waited = await self._terms.bandwidth.take(len(chunk))
                    source.pace.add(len(chunk), waited)
                    on_time = recent >= limits.stall_bytes or waited > 0
                    if on_time:
                        recent = 0
                        stall.reschedule(loop.time() + limits.stall_timeout)
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    data = chunk[skip:] if skip else chunk
                    skip = 0
                    if len(data) > piece.end - piece.at:
                        data = self._cut(data, piece)
                    spool.write(piece.at, data)
                    piece.at += len(data)
                    if new:
                        new = False
                        if host not in self.used:
                            self.used.append(host)
                    self._terms.told(name)
                    if piece.at == piece.end:
                        return
                    # A host that is not even on time has stalled: one fault gets one message.
                    if on_time and (problem := source.pace.problem(loop.time())):
                        raise _Slow(200, f"{problem}; {piece.at} of {spool.size} bytes came")
        except (TimeoutError, HostFailure) as error:
            # The client may notice in the same moment that nothing comes.
            nearly = (stall.when() or 0.0) - loop.time() < 0.1 * limits.stall_timeout
            if not stall.expired() and not (isinstance(error, HostFailure) and error.status == 0 and nearly):
                raise
            text = f"stalled: fewer than {limits.stall_bytes} bytes came in {limits.stall_timeout:g} s"
            raise _Stalled(0, f"{text}, after {piece.at} of {spool.size} bytes") from None
        finally:
            await chunks.aclose()

    def _cut(self, data: bytes, piece: _Piece) -> bytes:
        if piece.end == self._spool.size:
            raise DamagedFailure(200, f"sent more than the {self._spool.size} bytes of the manifest")
        return data[: piece.end - piece.at]


class _Stalled(HostFailure):
    """Too little came for too long."""


class _Slow(HostFailure):
    """What arrived took too long in total."""


class Pace:
    """Bytes and the time that they took, over all connections to one host. Times are seconds of any clock
    that only rises."""

    def __init__(self, min_rate: int, grace: float) -> None:
        """`min_rate` is in bytes a second (0: none), `grace` the seconds before anything is judged."""
        self._min_rate = min_rate
        self._grace = grace
        self._connections = 0
        self._since = 0.0
        self._spent = 0.0
        self._received = 0

    def begin(self, now: float) -> None:
        """One more connection waits for bytes."""
        if not self._connections:
            self._since = now
        self._connections += 1

    def end(self, now: float) -> None:
        """One connection fewer."""
        self._connections -= 1
        if not self._connections:
            self._spent += now - self._since

    def add(self, count: int, paused: float) -> None:
        """Bytes that arrived. For `paused` seconds we did not take them; that is not the host's fault."""
        self._received += count
        self._spent -= paused / self._connections

    def problem(self, now: float) -> str:
        """What is wrong with its pace; empty when nothing is."""
        spent = self._spent + now - self._since
        if spent < self._grace or self._received >= self._min_rate * spent:
            return ""
        rate = self._received / spent
        return f"too slow: {rate:.0f} bytes a second for {spent:.3g} s, images.min_rate is {self._min_rate}"
