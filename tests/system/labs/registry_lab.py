"""What the tests of registries share: images of noise, pulls, and what a pull that failed may leave."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from crib.backends.images.messages import BLOB_SUFFIX
from crib.model.errors import CribError
from crib.model.image import FetchedImage, PullOrder, parse_reference
from crib.model.registry import AuthConfig
from tests.fault_proxy import FaultProxy
from tests.images import PLAIN, BuiltImage, BuiltLayer, Entry, compress, layer_tar, machine_architecture
from tests.system.labs.image_lab import ImageLab

QUICK: Mapping[str, object] = {"dead_host_time": 0.0}
"""Settings for tests in which hosts fail on purpose."""
STALLING: Mapping[str, object] = {**QUICK, "stall_timeout": 1.5}
"""Where one stalls on purpose: it costs as long. A sound host must not seem to stall on a machine that has
other things to do (the image worker gives way to everybody)."""


class PackedLayer(BuiltLayer):
    """A layer that is packed once: gzip in members of so many bytes each."""

    def __new__(cls, tar: bytes, compression: str = PLAIN, member: int = 0) -> PackedLayer:
        return super().__new__(cls)

    def __init__(self, tar: bytes, compression: str = PLAIN, member: int = 0) -> None:
        super().__init__(tar, compression)
        pieces = [tar[at : at + member] for at in range(0, len(tar), member)] if member else [tar]
        object.__setattr__(self, "_members", [compress(piece, compression) for piece in pieces])
        object.__setattr__(self, "_blob", b"".join(self.members))

    @property
    def members(self) -> list[bytes]:
        found: list[bytes] = self.__dict__["_members"]
        return found

    @property
    def blob(self) -> bytes:
        found: bytes = self.__dict__["_blob"]
        return found


def noise(size: int, compression: str = PLAIN, member: int = 0) -> PackedLayer:
    """A layer with one file of random bytes, unlike any other."""
    return PackedLayer(layer_tar([Entry("noise", os.urandom(size))]), compression, member)


def noise_image(*sizes: int) -> BuiltImage:
    """An image nobody has seen before, one layer for each size."""
    return image_of(*(noise(size) for size in sizes or (150_000,)))


def image_of(*layers: BuiltLayer) -> BuiltImage:
    """An image of these layers for this machine."""
    return BuiltImage(layers, {"Cmd": ["/x"]}, (), machine_architecture())


async def pull(lab: ImageLab, name: str, **auth: str) -> FetchedImage:
    """Pull through the store; `auth` are fields of AuthConfig."""
    order = PullOrder(parse_reference(name), AuthConfig(**auth))
    return await lab.store.pull(order, lab.told.append)


async def refused(lab: ImageLab, name: str, kind: type[CribError], *words: str, **auth: str) -> CribError:
    """The error of a pull that must fail, with these words in it; only what can be resumed is left."""
    before = lab.layers()
    with pytest.raises(kind) as caught:
        await pull(lab, name, **auth)
    left_nothing(lab)
    assert lab.layers() == before
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return caught.value


def left_nothing(lab: ImageLab) -> None:
    """Nothing is staged but blobs that a later pull may go on with."""
    left = [name for name in lab.staged() if not name.endswith(BLOB_SUFFIX)]
    assert not left, f"still staged: {left}"


def hosts_toml(root: Path, registry: str, text: str) -> None:
    """ROOT/REGISTRY/hosts.toml, replaced in one step."""
    directory = root / registry
    directory.mkdir(parents=True, exist_ok=True)
    new = directory / ".new"
    new.write_text(text)
    new.rename(directory / "hosts.toml")


def secrets_seen(proxies: Iterable[FaultProxy], *secrets: str) -> list[str]:
    """Requests in which a host saw one of these, in a header or in its path."""
    return [
        f"{proxy.url} {seen.method} {seen.path}"
        for proxy in proxies
        for seen in list(proxy.seen)
        for secret in secrets
        if secret in seen.path or secret in str(seen.headers) or secret.encode() in seen.body
    ]
