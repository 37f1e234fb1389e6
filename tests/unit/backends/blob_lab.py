"""Hosts of one blob for tests of downloads: each behaves as its script says, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crib.backends.images.messages import LayerTerms
from crib.backends.images.worker.connections import HostFailure
from crib.backends.images.worker.download import BlobBody
from crib.model.errors import CribError, Unavailable
from crib.model.facts import LayerMounting
from crib.model.image_settings import TransferSettings
from crib.model.registry import RegistryHost

LIMITS = TransferSettings(
    parallel_ranges=1, stall_timeout=5.0, stall_bytes=1000, min_rate=0, dead_host_time=0, min_free=0
)
TERMS = LayerTerms(LIMITS, LayerMounting("file", 512, False))
_PIECE = 1 << 16


@dataclass
class FakeHost:
    """What one host does; `cuts` are bytes after which a connection breaks off, one for each."""

    blob: bytes
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    failure: HostFailure | None = None
    stalls: bool = False
    drips: float = 0.0
    total: bool = True
    gate: asyncio.Event | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[int, int | None]] = field(default_factory=list)


class FakeBody:
    def __init__(self, host: FakeHost, start: int, end: int | None, cut: int | None) -> None:
        self._host = host
        self.start = start if host.ranges else 0
        self.end: int | None = min(end or len(host.blob), len(host.blob)) if host.ranges else len(host.blob)
        self.total: int | None = len(host.blob) if host.total else None
        self._cut = cut
        self.closed = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        host, sent = self._host, 0
        self._host.begun.set()
        if host.gate is not None:
            await host.gate.wait()
        assert self.end is not None
        for at in range(self.start, self.end, _PIECE):
            if host.stalls:
                await asyncio.Event().wait()
            chunk = host.blob[at : min(at + _PIECE, self.end)]
            while host.drips:
                await asyncio.sleep(host.drips)  # a slow server is what is tested
                yield chunk[:1]
                chunk = chunk[1:]
            if self._cut is not None and sent + len(chunk) > self._cut:
                yield chunk[: self._cut - sent]
                raise HostFailure(0, "reset")
            sent += len(chunk)
            yield chunk
            await asyncio.sleep(0)  # lets the other connections in

    def close(self) -> None:
        self.closed = True


class FakeClient:
    """A registry client whose hosts are named h0, h1, …"""

    registry = "registry.test"

    def __init__(self, *hosts: FakeHost) -> None:
        self.hosts = {f"h{number}": host for number, host in enumerate(hosts)}
        self.dead: list[str] = []
        self.bodies: list[FakeBody] = []

    def blob_hosts(self) -> Sequence[RegistryHost]:
        return [RegistryHost(f"http://{name}/v2", "a/b", "test") for name in self.hosts]

    async def open_blob(self, host: RegistryHost, digest: str, start: int, end: int | None) -> BlobBody:
        fake = self.hosts[_name(host)]
        fake.asked.append((start, end))
        await asyncio.sleep(0)  # as a request would
        if fake.failure is not None:
            raise fake.failure
        cut = fake.cuts.pop(0) if fake.cuts else None
        body = FakeBody(fake, start, end, cut)
        self.bodies.append(body)
        return body

    def mark_dead(self, host: RegistryHost) -> None:
        self.dead.append(_name(host))

    def failure(self, what: str, failures: list[tuple[RegistryHost, HostFailure]]) -> CribError:
        tried = "; ".join(f"{_name(host)}: {failure}" for host, failure in failures)
        return Unavailable(f"{what} ({tried})")


def open_below(place: Path) -> list[str]:
    """What this process has open below a directory. A count of all descriptors would change with what the
    threads of libraries do."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in found if path.startswith(f"{place}/")]


def _name(host: RegistryHost) -> str:
    return host.url.removeprefix("http://").removesuffix("/v2")
