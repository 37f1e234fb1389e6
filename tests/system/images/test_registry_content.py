"""What is chosen of what a registry has, and what is refused: platforms, documents, blobs, signatures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from crib.backends.images.worker.connections import HostFailure
from crib.backends.images.worker.registry import RegistryClient
from crib.model.errors import Broken, Unavailable
from crib.model.image import Platform, Signature
from crib.model.registry import RegistryHost
from crib.wire.oci_image import ImageFormatError
from tests.fault_proxy import FaultProxy, running_proxy
from tests.faults import (
    cut,
    document,
    media_type,
    no_ranges,
    other_range,
    status,
)
from tests.images import BuiltImage, busybox_image, descriptor, digest_of
from tests.system.labs.client_lab import client, content, host, mirror_of, refused, resolved
from tests.upstreams import Shelf, from_images

pytestmark = pytest.mark.system

INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    return busybox_image()


@pytest.fixture
def shelf(image: BuiltImage) -> Shelf:
    return from_images({"a/b": image})


@pytest.fixture
def registry(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf) as proxy:
        yield proxy


@pytest.fixture
def mirror(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf) as proxy:
        yield proxy


# What is chosen, and what is refused


def put_index(shelf: Shelf, *entries: dict[str, Any], tag: str = "all", **more: Any) -> str:
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, **more}).encode()
    return shelf.put("a/b", data, INDEX, tag)


def put_image(shelf: Shelf, architecture: str, variant: str = "", said: str = "") -> dict[str, Any]:
    """An image for a platform; its index entry."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []},
        "config": {"Env": [f"MARK={architecture}/{variant}"]},
        **({"variant": said} if said else {}),
    }
    config_blob = json.dumps(config).encode()
    shelf.blobs[digest_of(config_blob)] = config_blob
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(config_blob, "application/vnd.oci.image.config.v1+json"),
        "layers": [],
    }
    data = json.dumps(manifest).encode()
    shelf.put("a/b", data, manifest["mediaType"], f"{architecture}{variant}")
    platform = {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}
    return {**descriptor(data, manifest["mediaType"]), "platform": platform}


async def test_the_platform_that_is_asked_for_is_chosen(registry: FaultProxy, shelf: Shelf) -> None:
    entries = [put_image(shelf, "arm", variant) for variant in ("v5", "v6", "v7")]
    entries += [put_image(shelf, "amd64"), put_image(shelf, "amd64", "v3", "v3")]
    digest = put_index(shelf, *entries)
    for platform, mark in (
        (Platform("arm", "linux", "v6"), "arm/v6"),
        (Platform("arm", "linux"), "arm/v7"),
        (Platform("amd64", "linux"), "amd64/"),
        (Platform("amd64", "linux", "v4"), "amd64/v3"),
    ):
        found = await resolved(host(registry.url), tag="all", platform=platform)
        assert found.config.env == (f"MARK={mark}",)
        assert found.manifest_digest == digest
        assert digest_of(found.documents.manifest) != digest
    error = await refused(
        ImageFormatError, host(registry.url), tag="all", platform=Platform("s390x", "linux")
    )
    assert "has nothing for linux/s390x, only linux/amd64, linux/amd64/v3, linux/arm/v5" in str(error)


async def test_an_image_without_an_index_must_be_for_the_platform_too(
    registry: FaultProxy, shelf: Shelf
) -> None:
    put_image(shelf, "amd64", "v3", "v3")
    error = await refused(
        ImageFormatError, host(registry.url), tag="amd64v3", platform=Platform("amd64", "linux")
    )
    assert "is for linux/amd64/v3, and linux/amd64 is wanted" in str(error)
    put_image(shelf, "arm")
    found = await resolved(host(registry.url), tag="arm", platform=Platform("arm", "linux", "v6"))
    assert found.config.architecture == "arm"


async def test_an_index_of_indexes_is_followed_but_not_for_ever(registry: FaultProxy, shelf: Shelf) -> None:
    digest = put_index(shelf, put_image(shelf, "amd64"))
    for depth in range(5):
        data, _ = shelf.manifests[f"a/b/manifests/{digest}"]
        digest = put_index(shelf, descriptor(data, INDEX), tag=f"deep{depth}")
    platform = Platform("amd64", "linux")
    assert (await resolved(host(registry.url), tag="deep1", platform=platform)).config.env
    error = await refused(Broken, host(registry.url), tag="deep4", platform=platform)
    assert "nested too deep" in str(error)


async def test_an_entry_whose_size_is_wrong_is_refused(registry: FaultProxy, shelf: Shelf) -> None:
    put_index(shelf, {**put_image(shelf, "amd64"), "size": 7})
    error = await refused(Broken, host(registry.url), tag="all", platform=Platform("amd64", "linux"))
    assert "its index says 7" in str(error)


async def test_a_content_type_that_says_otherwise_is_refused(registry: FaultProxy) -> None:
    registry.add("manifest", media_type(INDEX))
    assert "other fields" in str(await refused(Broken, host(registry.url)))


async def test_schema_1_is_refused_clearly(registry: FaultProxy) -> None:
    registry.add("manifest", document(b'{"schemaVersion":1,"fsLayers":[]}'))
    assert "Docker schema 1 manifest, which is not supported" in str(
        await refused(Broken, host(registry.url))
    )


async def test_the_urls_of_a_foreign_layer_are_never_asked(
    registry: FaultProxy, shelf: Shelf, image: BuiltImage
) -> None:
    with running_proxy(shelf) as elsewhere:
        for kind in (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ):
            layer = {**image.manifest["layers"][0], "mediaType": kind, "urls": [f"{elsewhere.url}/layer"]}
            data = json.dumps({**image.manifest, "layers": [layer]}).encode()
            shelf.put("a/b", data, image.manifest["mediaType"], "foreign")
            error = await refused(Broken, host(registry.url), tag="foreign")
            assert "foreign layer" in str(error)
        assert elsewhere.seen == []


# Blobs


async def opened(asked: RegistryClient, one: RegistryHost, digest: str, *part: Any) -> tuple[Any, ...]:
    body = await asked.open_blob(one, digest, *part)
    return body.start, body.end, body.total, body.accepts_ranges, await content(body)


async def test_a_part_of_a_blob_comes_as_asked(registry: FaultProxy, image: BuiltImage) -> None:
    blob = image.layers[0].blob
    digest, size, mine = digest_of(blob), len(blob), host(registry.url)
    async with client(mine) as asked:
        assert await opened(asked, mine, digest, 0, None) == (0, size, size, True, blob)
        assert await opened(asked, mine, digest, 5, None) == (5, size, size, True, blob[5:])
        assert await opened(asked, mine, digest, 5, 9) == (5, 9, size, True, blob[5:9])
        registry.add("layer", no_ranges)
        assert await opened(asked, mine, digest, 5, 9) == (0, size, size, False, blob)
        registry.clear()
        with pytest.raises(HostFailure, match="status 416"):
            await asked.open_blob(mine, digest, size, None)
    assert [one.range for one in registry.seen] == [f"bytes={size}-"]


async def test_another_part_than_was_asked_for_is_refused(registry: FaultProxy, image: BuiltImage) -> None:
    digest, mine = digest_of(image.layers[0].blob), host(registry.url)
    registry.add("layer", other_range())
    async with client(mine) as asked:
        with pytest.raises(HostFailure, match="sent another range than bytes=5-9"):
            await asked.open_blob(mine, digest, 5, 10)


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_blob_that_breaks_off_is_a_failure(
    registry: FaultProxy, image: BuiltImage, then: str
) -> None:
    digest, mine = digest_of(image.layers[0].blob), host(registry.url)
    registry.add("layer", cut(1000, then, length=len(image.layers[0].blob)))
    async with client(mine) as asked:
        body = await asked.open_blob(mine, digest, 0, None)
        with pytest.raises(HostFailure) as caught:
            await content(body)
    assert caught.value.status == 0


async def test_requests_for_blobs_share_their_connection(registry: FaultProxy, image: BuiltImage) -> None:
    digest, mine = digest_of(image.layers[0].blob), host(registry.url)
    async with client(mine) as asked:
        await asked.resolve()
        for _ in range(3):
            await opened(asked, mine, digest, 0, None)
    assert {one.connection for one in registry.seen} == {1}


# Signatures


def sign(shelf: Shelf, digest: str, payload: bytes, **annotations: str) -> None:
    """What cosign pushes."""
    shelf.blobs[digest_of(payload)] = payload
    kind = "application/vnd.dev.cosign.simplesigning.v1+json"
    layer = {**descriptor(payload, kind), "annotations": annotations}
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(b"{}", "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    }
    tag = digest.replace(":", "-") + ".sig"
    shelf.put("a/b", json.dumps(manifest).encode(), manifest["mediaType"], tag)


async def test_signatures_come_with_the_image_when_they_are_wanted(
    registry: FaultProxy, mirror: FaultProxy, shelf: Shelf, image: BuiltImage
) -> None:
    payload = b'{"critical":{}}'
    sign(shelf, digest_of(image.manifest_blob), payload, **{"dev.cosignproject.cosign/signature": "c2ln"})
    mirror.add(".sig/", status(404))
    mirror.add(f"/manifests/sha256-{digest_of(image.manifest_blob)[7:]}.sig", status(404))
    hosts = mirror_of(mirror), host(registry.url)
    found = await resolved(*hosts, signatures=True)
    assert found.signatures == (Signature(payload, "c2ln"),)
    assert found.fetched(()).signatures == found.signatures
    assert (await resolved(*hosts)).signatures == ()


async def test_an_image_without_signatures_is_no_error_but_a_registry_that_fails_is(
    registry: FaultProxy, image: BuiltImage
) -> None:
    assert (await resolved(host(registry.url), signatures=True)).signatures == ()
    registry.add("/manifests/sha256-", status(500))
    assert "signatures sha256-" in str(await refused(Unavailable, host(registry.url), signatures=True))


async def test_a_payload_of_another_digest_is_refused(
    registry: FaultProxy, shelf: Shelf, image: BuiltImage
) -> None:
    payload = b'{"critical":{}}'
    sign(shelf, digest_of(image.manifest_blob), payload, **{"dev.cosignproject.cosign/signature": "c2ln"})
    shelf.blobs[digest_of(payload)] = payload[::-1]
    assert "of digest" in str(await refused(Broken, host(registry.url), signatures=True))
