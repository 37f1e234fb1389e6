"""Pulls from a real registry and from registries that misbehave."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images.messages import BLOB_SUFFIX, blob_name
from crib.model.errors import REGISTRY_UNAVAILABLE, Broken, CribError, NotFound, Unavailable
from crib.model.ids import Digest
from crib.model.image import FetchedImage, PullOrder, parse_reference
from tests.images import (
    BuiltImage,
    BuiltLayer,
    Entry,
    busybox_image,
    descriptor,
    digest_of,
    layer_tar,
    machine_architecture,
    push,
    push_blob,
    push_manifest,
    write_oci_archive,
)
from tests.registry import free_port, running_registry
from tests.system.labs.daemon import until
from tests.system.labs.image_lab import ImageLab, fake_registry, image_lab, reply, serve

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

Request = http.server.BaseHTTPRequestHandler


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as url:
        yield url.removeprefix("http://")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ImageLab]:
    async with image_lab(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    made = busybox_image([Entry("noise", os.urandom(3 << 20))], [Entry("hello", b"hi")])
    assert made.blobs  # packed by now, and not while somebody waits for an answer
    return made


async def pull(lab: ImageLab, name: str) -> FetchedImage:
    return await lab.store.pull(PullOrder(parse_reference(name)), lab.told.append)


async def refused(lab: ImageLab, name: str, kind: type[CribError]) -> CribError:
    """The error of a pull that must fail; nothing is left of it."""
    with pytest.raises(kind) as caught:
        await pull(lab, name)
    # the worker removes what it has begun, and its error may come before
    await until(lambda: not [name for name in lab.staged() if not name.endswith(BLOB_SUFFIX)])
    assert lab.layers() == []
    return caught.value


async def test_an_image_is_pulled_by_tag_and_by_digest(
    registry: str, lab: ImageLab, image: BuiltImage
) -> None:
    digest = push(f"http://{registry}", image, "a/b", "1")
    by_tag = await pull(lab, f"{registry}/a/b:1")
    assert by_tag.id == image.id
    assert by_tag.manifest_digest == digest
    assert [layer.blob_digest for layer in by_tag.layers] == [digest_of(layer.blob) for layer in image.layers]
    assert {(step.stage, step.host) for step in lab.told} >= {("resolving", ""), ("downloading", registry)}
    assert lab.staged() == []
    (*_, top) = await lab.store.mounts.acquire([layer.diff_id for layer in by_tag.layers])
    assert Path(top, "hello").read_bytes() == b"hi"
    lab.told.clear()
    by_digest = await pull(lab, f"{registry}/a/b@{digest}")
    assert by_digest.id == by_tag.id
    assert [layer.diff_id for layer in by_digest.layers] == [layer.diff_id for layer in by_tag.layers]
    assert {step.stage for step in lab.told if step.layer} == {"present"}


async def test_an_image_with_sha512_digests_is_pulled_by_its_digest_and_by_nothing_else(
    lab: ImageLab,
) -> None:
    layer = BuiltLayer(layer_tar([Entry("hello", b"hi")]), algorithm="sha512")
    image = BuiltImage((layer,), architecture=machine_architecture(), algorithm="sha512")
    digest = digest_of(image.manifest_blob, "sha512")
    with fake_registry(lambda request: serve(request, image)) as host:
        fetched = await pull(lab, f"{host}/a/b@{digest}")
        assert (fetched.id, fetched.manifest_digest) == (image.id, digest)
        assert [one.diff_id for one in fetched.layers] == [layer.diff_id]
        (mounted,) = await lab.store.mounts.acquire([Digest(layer.diff_id)])
        assert Path(mounted, "hello").read_bytes() == b"hi"
        lab.told.clear()
        await pull(lab, f"{host}/a/b:1")
        assert {step.stage for step in lab.told if step.layer} == {"present"}
    wrong = digest_of(b"other", "sha512")
    with fake_registry(lambda request: answered(request, image)) as host, pytest.raises(Broken, match=digest):
        await pull(lab, f"{host}/a/b@{wrong}")


def answered(request: Request, image: BuiltImage) -> bool:
    """The same manifest for every digest."""
    reply(request, image.manifest_blob, image.manifest["mediaType"])
    return True


async def test_a_digest_of_an_unknown_algorithm_is_refused_by_name(lab: ImageLab) -> None:
    layer = BuiltLayer(layer_tar([Entry("hello", b"hi")]))
    image = BuiltImage((layer,), architecture=machine_architecture(), algorithm="sha384")
    with fake_registry(lambda request: serve(request, image)) as host:
        error = await refused(lab, f"{host}/a/b:1", Broken)
    assert "digest 'sha384:" in error.message
    assert "neither sha256 with 64 hex digits nor sha512" in error.message


async def test_a_worker_that_hands_over_another_config_is_not_believed(
    registry: str, lab: ImageLab, image: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(f"http://{registry}", image, "lied/about", "1")
    honest = lab.store._worker.run

    async def lying(message: Any, subject: str, progress: Any, take: Any) -> Any:
        def changed(one: FetchedImage) -> FetchedImage:
            config = one.documents.config.replace(b"PATH", b"HTAP")
            return replace(one, documents=replace(one.documents, config=config))

        return await honest(message, subject, progress, lambda images: take(tuple(map(changed, images))))

    monkeypatch.setattr(lab.store._worker, "run", lying)
    with pytest.raises(Broken, match="image worker gave a document of digest"):
        await pull(lab, f"{registry}/lied/about:1")
    assert lab.layers() == []
    with pytest.raises(Broken, match="image worker gave a document of digest"):
        await lab.store.resolve(PullOrder(parse_reference(f"{registry}/lied/about:1")), lab.told.append)


async def test_pulls_at_once_share_the_fetching_of_a_layer(lab: ImageLab, image: BuiltImage) -> None:
    pulls = 6
    asked: Counter[str] = Counter()
    counting = threading.Lock()
    all_are_there = threading.Event()

    def answer(request: Request) -> bool:
        with counting:
            asked[request.path] += 1
            if image.id in request.path and asked[request.path] == pulls:
                all_are_there.set()
        if "/blobs/" in request.path and image.id not in request.path:
            all_are_there.wait(30)
        return serve(request, image)

    with fake_registry(answer) as host:
        results = await asyncio.gather(*(pull(lab, f"{host}/a/b:1") for _ in range(pulls)))
    assert len(set(map(repr, results))) == 1
    layers = [count for path, count in asked.items() if "/blobs/" in path and image.id not in path]
    assert len(layers) == len(image.layers)
    assert set(layers) == {1}


async def test_the_manifest_for_this_machine_is_taken_from_an_index(
    registry: str, lab: ImageLab, image: BuiltImage
) -> None:
    other = BuiltImage(image.layers, {}, (), "riscv64")
    entries = []
    for one in (other, image):
        push(f"http://{registry}", one, "multi", one.architecture)
        entry = descriptor(one.manifest_blob, one.manifest["mediaType"])
        entries.append({**entry, "platform": {"os": "linux", "architecture": one.architecture}})
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    push_manifest(f"http://{registry}", "multi", "all", index, "application/vnd.oci.image.index.v1+json")
    fetched = await pull(lab, f"{registry}/multi:all")
    assert fetched.id == image.id
    assert fetched.manifest_digest == digest_of(index)


async def test_a_pull_after_an_import_gets_a_worker_that_can_pull(
    registry: str, lab: ImageLab, image: BuiltImage, tmp_path: Path
) -> None:
    push(f"http://{registry}", image, "after/import", "1")
    await lab.store.import_archive(str(write_oci_archive(tmp_path / "x", [busybox_image()])), lab.told.append)
    before = lab.store.worker_pid
    assert (await pull(lab, f"{registry}/after/import:1")).id == image.id
    assert lab.store.worker_pid != before


async def test_what_the_registry_lacks_is_not_found(registry: str, lab: ImageLab) -> None:
    error = await refused(lab, f"{registry}/no/such:1", NotFound)
    assert registry in str(error)
    assert "status 404" in str(error)


async def test_a_registry_that_is_away_is_unavailable(lab: ImageLab) -> None:
    error = await refused(lab, f"127.0.0.1:{free_port()}/a/b:1", Unavailable)
    assert error.reason == REGISTRY_UNAVAILABLE
    assert "connection refused" in str(error)


async def test_mirrors_are_asked_first_and_a_dead_one_is_passed(
    registry: str, tmp_path: Path, image: BuiltImage
) -> None:
    push(f"http://{registry}", image, "mirrored", "1")
    dead = f"http://127.0.0.1:{free_port()}"
    mirrors = {"registry.invalid": (dead, f"http://{registry}")}
    async with image_lab(tmp_path, mirrors=mirrors) as lab:
        fetched = await pull(lab, "registry.invalid/mirrored:1")
        assert fetched.id == image.id
        await lab.store.sweep([])
        error = await refused(lab, "registry.invalid/other:1", Unavailable)
        assert error.reason == REGISTRY_UNAVAILABLE
        for host in (dead.removeprefix("http://"), registry, "registry.invalid"):
            assert host in str(error)


async def test_a_wrong_blob_is_refused(lab: ImageLab, image: BuiltImage) -> None:
    victim = digest_of(image.layers[1].blob)

    def answer(request: Request) -> bool:
        if victim in request.path:
            blob = bytearray(image.blobs[victim])
            blob[-5] ^= 1  # in the checksum of the gzip
            reply(request, bytes(blob), "application/octet-stream")
            return True
        return serve(request, image)

    with fake_registry(answer) as host:
        error = await refused(lab, f"{host}/a/b:1", Broken)
    assert victim in str(error)


async def test_a_manifest_of_another_digest_is_refused(lab: ImageLab, image: BuiltImage) -> None:
    def answer(request: Request) -> bool:
        if "/manifests/" in request.path:
            reply(request, image.manifest_blob + b" ", image.manifest["mediaType"])
            return True
        return serve(request, image)

    with fake_registry(answer) as host:
        error = await refused(lab, f"{host}/a/b@{digest_of(image.manifest_blob)}", Broken)
    assert "sent a manifest of digest" in str(error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"manifests": []}, "two ways"),
        ({"schemaVersion": 1}, "schema 1"),
        (
            {"config": {"mediaType": "application/vnd.x+json", "digest": "sha256:" + "0" * 64, "size": 1}},
            "not a runnable image",
        ),
    ],
)
async def test_a_manifest_that_is_no_image_is_refused(
    change: dict[str, Any], words: str, lab: ImageLab, image: BuiltImage
) -> None:
    body = json.dumps({**image.manifest, **change}).encode()

    def answer(request: Request) -> bool:
        reply(request, body, image.manifest["mediaType"])
        return True

    with fake_registry(answer) as host:
        assert words in str(await refused(lab, f"{host}/a/b:1", Broken))


async def test_a_document_without_an_end_is_refused(lab: ImageLab) -> None:
    def answer(request: Request) -> bool:
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        for _ in range(100):
            request.wfile.write(bytes(1 << 20))
        return True

    with fake_registry(answer) as host:
        assert "more than" in str(await refused(lab, f"{host}/a/b:1", Unavailable))


async def test_a_transfer_that_breaks_off_goes_on_where_it_was(lab: ImageLab, image: BuiltImage) -> None:
    victim = max(image.blobs, key=lambda digest: len(image.blobs[digest]))
    ranges: list[str] = []

    def answer(request: Request) -> bool:
        if victim not in request.path:
            return serve(request, image)
        blob = image.blobs[victim]
        asked = request.headers.get("Range", "")
        ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0)
        request.send_response(206 if asked else 200)
        request.send_header("Content-Length", str(len(blob) - start))
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob)}")
        request.end_headers()
        stop = len(blob) if len(ranges) > 2 else start + 1_000_000
        request.wfile.write(blob[start:stop])
        request.close_connection = True
        return True

    with fake_registry(answer) as host:
        assert (await pull(lab, f"{host}/a/b:1")).id == image.id
    assert len(ranges) == 3
    assert ranges[0] == ""
    assert all(asked.startswith("bytes=") for asked in ranges[1:])


async def test_an_anonymous_token_is_fetched_where_one_is_asked_for(lab: ImageLab, image: BuiltImage) -> None:
    tokens: list[str] = []

    def answer(request: Request) -> bool:
        if request.path.startswith("/token"):
            tokens.append(request.path)
            reply(request, b'{"token":"abc"}', "application/json")
            return True
        if request.headers.get("Authorization") == "Bearer abc":
            return serve(request, image)
        request.send_response(401)
        realm = f"http://{request.headers['Host']}/token"
        request.send_header(
            "WWW-Authenticate", f'Bearer realm="{realm}",service="s",scope="repository:a/b:pull"'
        )
        request.send_header("Content-Length", "0")
        request.end_headers()
        return True

    with fake_registry(answer) as host:
        assert (await pull(lab, f"{host}/a/b:1")).id == image.id
    assert tokens == ["/token?scope=repository:a/b:pull&service=s"]


async def test_a_registry_that_wants_credentials_says_so(lab: ImageLab) -> None:
    def answer(request: Request) -> bool:
        reply(request, b'{"errors":[{"code":"DENIED","message":"no"}]}', "application/json", 403)
        return True

    with fake_registry(answer) as host:
        error = await refused(lab, f"{host}/a/b:1", Unavailable)
    assert "credentials" in str(error)
    assert "DENIED: no" in str(error)


async def test_a_registry_that_stalls_is_given_up(tmp_path: Path, image: BuiltImage) -> None:
    ended = threading.Event()

    def answer(request: Request) -> bool:
        name = request.path.rpartition("/")[2]
        if "/blobs/" in request.path and name != image.id:
            request.send_response(200)
            request.send_header("Content-Length", str(len(image.blobs[name])))
            request.end_headers()
            request.wfile.write(b"\x1f\x8b")
            request.wfile.flush()
            ended.wait(30)
            return True
        return serve(request, image)

    with fake_registry(answer) as host:
        async with image_lab(tmp_path, stall_timeout=1.0) as lab:
            error = await refused(lab, f"{host}/a/b:1", Unavailable)
            ended.set()
    assert error.reason == REGISTRY_UNAVAILABLE
    assert "layer sha256:" in str(error)
    assert "stall" in str(error)


async def test_a_pull_goes_on_where_a_killed_worker_left_it(lab: ImageLab, image: BuiltImage) -> None:
    victim = max(image.blobs, key=lambda digest: len(image.blobs[digest]))
    blob = image.blobs[victim]
    ranges: list[str] = []
    ended = threading.Event()

    def answer(request: Request) -> bool:
        if victim not in request.path:
            return serve(request, image)
        asked = request.headers.get("Range", "")
        ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0)
        request.send_response(206 if asked else 200)
        request.send_header("Content-Length", str(len(blob) - start))
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob)}")
        request.end_headers()
        if not asked:
            request.wfile.write(blob[:2_000_000])
            request.wfile.flush()
            ended.wait(30)
            return True
        request.wfile.write(blob[start:])
        return True

    with fake_registry(answer) as host:
        first = asyncio.ensure_future(pull(lab, f"{host}/a/b:1"))
        spool = Path(lab.paths.staging, blob_name(victim))
        await until(lambda: spool.exists() and spool.stat().st_size >= 2_000_000)
        pid = lab.store.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="went away"):
            await first
        ended.set()
        assert (await pull(lab, f"{host}/a/b:1")).id == image.id
    assert lab.staged() == []
    start = int(ranges[1].removeprefix("bytes=").rstrip("-"))
    assert 1_900_000 < start <= 2_000_000


async def test_an_idle_worker_that_died_is_replaced_without_an_error(
    lab: ImageLab, image: BuiltImage, tmp_path: Path
) -> None:
    archive = str(write_oci_archive(tmp_path / "x", [image]))
    await lab.store.import_archive(archive, lab.told.append)
    for _ in range(3):
        pid = lab.store.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        (again,) = await lab.store.import_archive(archive, lab.told.append)
        assert again.id == image.id
        assert lab.store.worker_pid != pid


async def test_a_large_layer_comes_in_ranges_and_a_worker_is_confined(registry: str, lab: ImageLab) -> None:
    large = busybox_image([Entry("noise", os.urandom(40 << 20))])
    push(f"http://{registry}", large, "large", "1")
    assert (await pull(lab, f"{registry}/large:1")).id == large.id
    status = Path(f"/proc/{lab.store.worker_pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert {fields[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"


async def test_a_pull_that_is_cancelled_leaves_nothing(lab: ImageLab, image: BuiltImage) -> None:
    ended = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer(request: Request) -> bool:
        if "/blobs/" in request.path and image.id not in request.path:
            loop.call_soon_threadsafe(begun.set)
            ended.wait(30)
        return serve(request, image)

    with fake_registry(answer) as host:
        request = asyncio.ensure_future(pull(lab, f"{host}/a/b:1"))
        await begun.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        # The worker hears of it afterwards, and bytes that came until then would be kept.
        await until(lambda: lab.staged() == [])
        ended.set()
        assert (await pull(lab, f"{host}/a/b:1")).id == image.id
    assert lab.staged() == []


async def test_a_blob_longer_than_its_manifest_says_is_refused(lab: ImageLab, image: BuiltImage) -> None:
    victim = digest_of(image.layers[0].blob)

    def answer(request: Request) -> bool:
        if victim in request.path:
            reply(request, image.blobs[victim] + b"more", "application/octet-stream")
            return True
        return serve(request, image)

    with fake_registry(answer) as host:
        assert "more than the" in str(await refused(lab, f"{host}/a/b:1", Broken))


def test_the_library_pushes_single_blobs(registry: str) -> None:
    push_blob(f"http://{registry}", "single", digest_of(b"x"), b"x")


async def test_a_file_that_is_read_cold_takes_its_size_in_memory_once(tmp_path: Path, registry: str) -> None:
    content = os.urandom(1 << 20)
    layer = BuiltLayer(layer_tar([Entry("data", content)]))
    image = BuiltImage((layer,), {"Cmd": ["/x"]}, (), machine_architecture())
    push(f"http://{registry}", image, "cold/data", "1")
    async with image_lab(tmp_path) as lab:
        if not lab.store.mounting.direct_io:
            pytest.skip("this file system has no direct reads for layers")
        pulled = await pull(lab, f"{registry}/cold/data:1")
        file = lab.paths.layer_file(pulled.layers[0].diff_id)
        assert cached(file) < len(content) // 4
        (mounted,) = await lab.store.mounts.acquire([pulled.layers[0].diff_id])
        assert Path(mounted, "data").read_bytes() == content
        assert cached(file) < len(content) // 4
        await lab.store.mounts.unmount([pulled.layers[0].diff_id])


def cached(path: str) -> int:
    """Bytes of a file that are in the page cache: asked of util-linux, as a look by reading would fill it."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", path]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)
