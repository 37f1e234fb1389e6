"""A node's images: damaged and mended under a running container, signed or refused, brought and collected."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crib.client import images
from crib.client.errors import ClientError
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.fault_proxy import FaultProxy, running_proxy
from tests.images import busybox_image, digest_of, write_saved_archive
from tests.system.labs.daemon import IMAGE, Cri, Cribd, running_cribd, until
from tests.system.labs.registry_lab import noise_image
from tests.upstreams import Shelf

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@contextlib.asynccontextmanager
async def daemon(**options: Any) -> AsyncIterator[Cribd]:
    """`running_cribd`, which runs a loop of its own."""
    context = running_cribd(**options)
    cribd = await asyncio.to_thread(context.__enter__)
    try:
        yield cribd
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def registry(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf) as proxy:
        yield proxy


async def pull(cri: Cri, name: str, annotations: dict[str, str] | None = None) -> str:
    spec = pb.ImageSpec(image=name, user_specified_image=name, annotations=annotations or {})
    return (await cri.call(cri.image.PullImage, pb.PullImageRequest(image=spec))).image_ref


async def test_a_layer_rots_under_a_container_and_is_mended_while_it_runs(
    shelf: Shelf, registry: FaultProxy
) -> None:
    shelf.add("demo/app", busybox_image())
    async with daemon() as cribd, cribd.connect() as cri:
        for known in await cri.image_names():
            await images.remove(cri.connection, known)
        name = f"{registry.host}/demo/app:1"
        await pull(cri, name)
        pod = await cri.run_pod("rotten")
        running = await cri.run_container(pod, "sleep", "1000", image=name)
        (file,) = (cribd.data / "layers").glob("*.erofs")
        damage(file)
        found, end = await checked(cri, repair=False)
        assert [bool(check.problem) for check in found] == [True]
        assert (list(found[0].images), end.damaged) == ([name], 1)
        found, end = await checked(cri, repair=True)
        assert [check.repaired for check in found] == [True]
        assert end.damaged == 0
        found, end = await checked(cri, repair=False)
        assert [check.problem for check in found] == [""]
        assert (await cri.status(running)).state == pb.CONTAINER_RUNNING
        second = await cri.run_container(pod, "sleep", "1000", image=name)
        assert (await cri.sh(second, "echo works")) == "works"
        await cri.remove_pod(pod)


async def test_an_image_whose_layer_is_lost_is_absent_so_that_the_next_pull_brings_it(
    shelf: Shelf, registry: FaultProxy
) -> None:
    shelf.add("demo/app", busybox_image())
    name = f"{registry.host}/demo/app:1"
    async with daemon(built=(), warm=False) as cribd:
        async with cribd.connect() as cri:
            await pull(cri, name)
            pod = await cri.run_pod("lost")
            (file,) = (cribd.data / "layers").glob("*.erofs")
            file.unlink()
            with pytest.raises(ClientError, match="is not on disk"):
                await cri.create(pod, "true", image=name)
            assert not await has_image(cri, name)
            await pull(cri, name)
            assert await has_image(cri, name)
            await cri.create(pod, "true", image=name)
            await cri.remove_pod(pod)
        await asyncio.to_thread(cribd.stop)
        file.unlink()
        await asyncio.to_thread(cribd.start)
        async with cribd.connect() as cri:
            assert not await has_image(cri, name)
            await pull(cri, name)
            assert await has_image(cri, name)


async def has_image(cri: Cri, name: str) -> bool:
    """What a kubelet asks before it decides whether to pull."""
    request = pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
    return (await cri.call(cri.image.ImageStatus, request)).HasField("image")


def damage(file: Path) -> None:
    """One byte in the middle of the data, as a rotten block has it."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 0xFF]))


async def checked(cri: Cri, *, repair: bool) -> tuple[list[Any], Any]:
    *layers, end = [step async for step in images.check(cri.connection, repair=repair)]
    return layers, end


def sign(shelf: Shelf, repository: str, name: str, digest: str, key: ec.EllipticCurvePrivateKey) -> None:
    """As `cosign sign --key` leaves it in the registry."""
    payload = json.dumps(
        {
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
    ).encode()
    signature = base64.b64encode(key.sign(payload, ec.ECDSA(hashes.SHA256()))).decode()
    config = b"{}"
    shelf.blobs |= {digest_of(payload): payload, digest_of(config): config}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": PAYLOAD,
                "digest": digest_of(payload),
                "size": len(payload),
                "annotations": {"dev.cosignproject.cosign/signature": signature},
            }
        ],
    }
    tag = f"{digest.replace(':', '-')}.sig"
    shelf.put(repository, json.dumps(manifest).encode(), MANIFEST, tag)


async def test_signed_images_run_and_others_are_refused_before_a_layer_comes(
    shelf: Shelf, registry: FaultProxy, tmp_path: Path
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "key.pub").write_bytes(pem)
    good = shelf.add("demo/good", busybox_image())
    bad = noise_image(100_000)
    shelf.add("demo/bad", bad)
    sign(shelf, "demo/good", f"{registry.host}/demo/good", good, private)
    policy = (
        f'[[images.policy]]\nmatch = "{registry.host}/demo/*"\naction = "signed"\n'
        f'keys = ["{tmp_path}/key.pub"]\n'
    )
    async with daemon(extra=policy) as cribd:
        async with cribd.connect() as cri:
            name = f"{registry.host}/demo/good:1"
            await pull(cri, name)
            with pytest.raises(ClientError, match=r"SignatureValidationFailed.*demo/bad"):
                await pull(cri, f"{registry.host}/demo/bad:1")
            assert not registry.of("layer", digest_of(bad.layers[0].blob))
            pod = await cri.run_pod("signed")
            await cri.run_container(pod, "sleep", "1000", image=name)
            await cri.remove_pod(pod)
        # The key is withdrawn: what is here does not run any more.
        other = ec.generate_private_key(ec.SECP256R1()).public_key()
        (tmp_path / "key.pub").write_bytes(
            other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        async with cribd.connect() as cri:
            pod = await cri.run_pod("withdrawn")
            with pytest.raises(ClientError, match="SignatureValidationFailed"):
                await cri.run_container(pod, "sleep", "1000", image=name)
            await cri.remove_pod(pod)


async def test_archives_and_images_of_the_configuration_come_at_start_and_the_unused_go(
    shelf: Shelf, registry: FaultProxy, tmp_path: Path
) -> None:
    for name in ("wanted", "pinned"):
        shelf.add(f"demo/{name}", noise_image(50_000))
    saved = noise_image(60_000)
    (tmp_path / "in").mkdir()
    write_saved_archive(tmp_path / "in" / "a.tar", [replace(saved, names=("docker.io/demo/saved:1",))])
    (tmp_path / "in" / "broken.tar").write_bytes(b"no archive" * 1000)
    wanted = [f"{registry.host}/demo/wanted:1"]
    settings = (
        f'[images]\nimport_dir = "{tmp_path}/in"\nprepull = {json.dumps(wanted)}\n'
        f'pinned = ["{registry.host}/demo/pinned:*"]\ngc_min_age = 0\n'
    )
    async with daemon(extra=settings) as cribd:
        async with cribd.connect() as cri:
            await until(lambda: brought(cri, {*wanted, "docker.io/demo/saved:1"}))
            await pull(cri, f"{registry.host}/demo/pinned:1")
            listed = await images.list_images(cri.connection)
            pinned = [list(image.repo_tags) for image in listed if image.pinned]
            assert pinned == [[f"{registry.host}/demo/pinned:1"]]
        assert "broken.tar" in cribd.log()
        cribd.stop()
        (tmp_path / "in" / "a.tar").unlink()
        # Any file system is fuller than this, so all that may go goes.
        text = cribd.config.read_text().replace("gc_min_age = 0", "gc_min_age = 0\ngc_high = 1\ngc_low = 0")
        cribd.config.write_text(text)
        cribd.start()
        async with cribd.connect() as cri:
            kept = {*wanted, f"{registry.host}/demo/pinned:1"}

            async def only_those() -> bool:
                return await cri.image_names() == kept

            await until(only_those)


async def brought(cri: Cri, names: set[str]) -> bool:
    return names <= await cri.image_names()


async def test_an_exported_image_comes_back_with_its_id_and_runs(tmp_path: Path) -> None:
    async with daemon() as cribd, cribd.connect() as cri:
        (before,) = await images.list_images(cri.connection)
        for archive_format in ("oci", "docker"):
            path = tmp_path / f"{archive_format}.tar"
            size = await images.export(cri.connection, str(path), [IMAGE], archive_format)
            assert size == path.stat().st_size
            await images.remove(cri.connection, before.id)
            assert await cri.import_archive(path) == [IMAGE]
            (after,) = await images.list_images(cri.connection)
            assert (after.id, after.size) == (before.id, before.size)
        pod = await cri.run_pod("back")
        box = await cri.run_container(pod, "sleep", "1000")
        assert (await cri.sh(box, "echo back")) == "back"
        await cri.remove_pod(pod)


async def test_another_platform_of_an_index_is_pulled_when_the_annotation_asks(
    shelf: Shelf, registry: FaultProxy
) -> None:
    entries = []
    for architecture in ("amd64", "arm64"):
        image = noise_image(40_000)
        image = replace(image, architecture=architecture)
        digest = shelf.add("demo/both", image, architecture)
        entries.append(
            {
                "mediaType": image.manifest["mediaType"],
                "digest": digest,
                "size": len(image.manifest_blob),
                "platform": {"os": "linux", "architecture": architecture},
            }
        )
    index_type = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": index_type, "manifests": entries}
    shelf.put("demo/both", json.dumps(index).encode(), index_type)
    async with daemon() as cribd, cribd.connect() as cri:
        name = f"{registry.host}/demo/both:1"
        seen = {}
        for architecture in ("amd64", "arm64"):
            image_id = await pull(cri, name, {"io.crib.platform": f"linux/{architecture}"})
            request = pb.ImageStatusRequest(image=pb.ImageSpec(image=image_id), verbose=True)
            status = await cri.call(cri.image.ImageStatus, request)
            seen[architecture] = json.loads(status.info["info"])["imageSpec"]["architecture"]
        assert seen == {"amd64": "amd64", "arm64": "arm64"}
        with pytest.raises(ClientError, match="s390x"):
            await pull(cri, name, {"io.crib.platform": "linux/s390x"})
