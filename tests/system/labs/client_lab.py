"""The registry client of the image worker, asked directly: what a test says to it, and what it gives."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from crib.backends.images.messages import LayerTerms, Pull
from crib.backends.images.worker.documents import FoundImage
from crib.backends.images.worker.host_pool import HostPool
from crib.backends.images.worker.registry import BlobResponse, RegistryClient
from crib.model.facts import LayerMounting
from crib.model.image import Platform
from crib.model.image_settings import TransferSettings
from crib.model.registry import Credential, RegistryHost
from tests.fault_proxy import FaultProxy
from tests.images import machine_architecture

SECRETS = ("open sesame", "identity-of-ali", "registry-token-of-ali")
BASIC = Credential("ali-baba", SECRETS[0], source="request")


def host(url: str, repository: str = "a/b", **fields: Any) -> RegistryHost:
    """A host at this base URL, its API below /v2; it is the origin unless the test says otherwise."""
    return RegistryHost(f"{url}/v2", repository, "a test", **{"is_origin": True, **fields})


def terms(**fields: Any) -> LayerTerms:
    """Sane bounds, short enough for a test."""
    return LayerTerms(
        TransferSettings(**{"stall_timeout": 10.0, **fields}), LayerMounting("file", 4096, False)
    )


def order(*hosts: RegistryHost, tag: str = "1", digest: str = "", **fields: Any) -> Pull:
    """A pull from these hosts."""
    values = {"platform": Platform(machine_architecture(), "linux"), "terms": terms(), **fields}
    return Pull(1, "registry.example/a/b", tag, digest, hosts, have=(), **values)


@contextlib.asynccontextmanager
async def client(
    *hosts: RegistryHost, pool: HostPool | None = None, **fields: Any
) -> AsyncIterator[RegistryClient]:
    """A client for one pull."""
    async with RegistryClient(order(*hosts, **fields), pool or HostPool()) as made:
        yield made


class Sleeps:
    """A clock that only moves when somebody sleeps on it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def pool(self) -> HostPool:
        """A pool on this clock."""
        return HostPool(self.clock, self.sleep)


def mirror_of(proxy: FaultProxy, **fields: Any) -> RegistryHost:
    """A proxy as a host that is not the registry itself."""
    return host(proxy.url, is_origin=False, **fields)


async def resolved(*hosts: RegistryHost, pool: HostPool | None = None, **fields: Any) -> FoundImage:
    """What the client makes of the image that these hosts have."""
    async with client(*hosts, pool=pool, **fields) as asked:
        return await asked.resolve()


async def refused(kind: type[Exception], *hosts: RegistryHost, **fields: Any) -> Exception:
    """The error of asking these hosts."""
    async with client(*hosts, **fields) as asked:
        with pytest.raises(kind) as caught:
            await asked.resolve()
    return caught.value


async def content(body: BlobResponse) -> bytes:
    """A blob, whole."""
    with contextlib.closing(body):
        return b"".join([chunk async for chunk in body.chunks()])
