"""Archives are read without being extracted, and lies in them are named."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images.worker import inflate
from crib.backends.images.worker.archive import ArchiveError, TarArchive, open_archive, read_images
from crib.backends.images.worker.documents import FoundImage
from crib.model.errors import Exhausted
from crib.model.image import Platform
from crib.model.image_settings import TransferSettings
from crib.wire.oci_image import ImageFormatError
from tests.images import (
    GZIP,
    PLAIN,
    ZSTD,
    BuiltImage,
    BuiltLayer,
    Entry,
    compress,
    docker_layout_files,
    layer_tar,
    layout_files,
    saved_files,
    write_tar,
)
from tests.unit.backends.blob_lab import open_below

NAME = "docker.io/library/hello:1"


@pytest.fixture
def image() -> BuiltImage:
    layers = tuple(BuiltLayer(layer_tar([Entry(name, b"data")]), PLAIN) for name in ("one", "two"))
    return BuiltImage(layers, {"Cmd": ["/hello"], "Labels": {"a": "b"}}, (NAME,))


LIMITS = TransferSettings(max_layer_bytes=200 << 20, max_ratio=10, min_free=0)


async def read(
    path: Path, architecture: str = "amd64", limits: TransferSettings = LIMITS
) -> list[FoundImage]:
    archive = await open_archive(os.open(path, os.O_RDONLY), limits)
    try:
        return await read_images(archive, Platform(architecture, "linux"))
    finally:
        archive.close()


@pytest.mark.parametrize("files", [layout_files, saved_files, docker_layout_files])
async def test_every_kind_of_archive_gives_the_same_image(
    files: Any, image: BuiltImage, tmp_path: Path
) -> None:
    (found,) = await read(write_tar(tmp_path / "x.tar", files([image])))
    assert found.id == image.id
    assert found.names == (NAME,)
    assert [layer.diff_id for layer in found.layers] == [layer.diff_id for layer in image.layers]
    assert found.config.cmd == ("/hello",)
    assert found.config.labels == {"a": "b"}


async def test_an_image_with_two_names_is_one_image(image: BuiltImage, tmp_path: Path) -> None:
    both = BuiltImage(image.layers, image.config, (NAME, "ghcr.io/x/y:2"))
    (found,) = await read(write_tar(tmp_path / "x.tar", layout_files([both])))
    assert found.names == (NAME, "ghcr.io/x/y:2")


async def test_an_index_inside_the_layout_is_followed(image: BuiltImage, tmp_path: Path) -> None:
    other = BuiltImage(image.layers, {}, (), "arm64")
    files = layout_files([image, other])
    inner = files["index.json"]
    from tests.images import descriptor, digest_of

    digest = digest_of(inner)
    files[f"blobs/sha256/{digest[7:]}"] = inner
    outer = descriptor(inner, "application/vnd.oci.image.index.v1+json")
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [outer]}).encode()
    path = write_tar(tmp_path / "x.tar", files)
    (here,) = await read(path)
    (there,) = await read(path, "arm64")
    assert (here.id, there.id) == (image.id, other.id)
    assert here.manifest_digest == digest


async def test_an_image_for_another_machine_is_refused(image: BuiltImage, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no image for linux/arm64"):
        await read(write_tar(tmp_path / "x.tar", layout_files([image])), "arm64")
    with pytest.raises(ImageFormatError, match="is for linux/amd64"):
        await read(write_tar(tmp_path / "y.tar", saved_files([image])), "arm64")


async def test_a_changed_config_is_found_out(image: BuiltImage, tmp_path: Path) -> None:
    files = layout_files([image])
    name = f"blobs/sha256/{image.id[7:]}"
    files[name] = files[name].replace(b"/hello", b"/hallo")
    with pytest.raises(ArchiveError, match="damaged"):
        await read(write_tar(tmp_path / "x.tar", files))


async def test_a_missing_layer_is_named(image: BuiltImage, tmp_path: Path) -> None:
    files = saved_files([image])
    name = next(name for name in files if name.endswith("layer.tar"))
    del files[name]
    with pytest.raises(ArchiveError, match=re.escape(f"lacks {name}")):
        await read(write_tar(tmp_path / "x.tar", files))


async def test_a_truncated_archive_is_refused(image: BuiltImage, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", saved_files([image]))
    os.truncate(path, 9000)
    with pytest.raises(ArchiveError, match=r"truncated|malformed|lacks"):
        await read(path)


async def test_a_huge_document_is_refused_unread(image: BuiltImage, tmp_path: Path) -> None:
    files = {**layout_files([image]), "index.json": b" " * ((8 << 20) + 1)}
    with pytest.raises(ArchiveError, match=r"index\.json has 8388609 bytes"):
        await read(write_tar(tmp_path / "x.tar", files))


@pytest.mark.parametrize("name", ["../index.json", "/etc/passwd", "a/../../b"])
async def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="leads out"):
        await read(write_tar(tmp_path / "x.tar", {name: b""}))


async def test_a_device_in_a_documents_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(layer_tar([Entry("oci-layout", kind=tarfile.CHRTYPE)]))
    with pytest.raises(ArchiveError, match="not a plain file"):
        await read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no members"),
        (b"\x1f\x8b" + bytes(600), "gzip data is damaged"),
        (gzip.compress(b"x" * 2000, mtime=0), "malformed"),
        (gzip.compress(bytes(2000), mtime=0)[:-9], "ends inside its gzip data"),
        (b"BZh91AY" + bytes(600), "compressed with bzip2"),
        (b"\xfd7zXZ\0" + bytes(600), "compressed with xz"),
        (b"x" * 2000, "malformed"),
        (bytes(2000), "no members"),
    ],
)
async def test_what_is_no_archive_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=words):
        await read(path)


async def test_a_layer_that_docker_linked_is_found(image: BuiltImage, tmp_path: Path) -> None:
    files = saved_files([image])
    first, second = (name for name in files if name.endswith("layer.tar"))
    twice = BuiltImage((image.layers[0], image.layers[0]), {}, (NAME,))
    config = twice.config_blob
    entries = [Entry(first, files[first]), Entry(second, kind=tarfile.SYMTYPE, link=f"../{first}")]
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": [first, second]}]
    entries += [Entry("c.json", config), Entry("manifest.json", json.dumps(manifest).encode())]
    path = tmp_path / "x.tar"
    path.write_bytes(layer_tar(entries))
    (found,) = await read(path)
    assert [layer.size for layer in found.layers] == [len(image.layers[0].tar)] * 2


async def test_documents_come_byte_for_byte(image: BuiltImage, tmp_path: Path) -> None:
    (layout,) = await read(write_tar(tmp_path / "x.tar", layout_files([image])))
    assert (layout.documents.config, layout.documents.manifest) == (image.config_blob, image.manifest_blob)
    (saved,) = await read(write_tar(tmp_path / "y.tar", saved_files([image])))
    assert (saved.documents.config, saved.documents.manifest) == (image.config_blob, b"")


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The worker's working directory, where it may write."""
    path = tmp_path / "staging"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.mark.parametrize("compression", [GZIP, ZSTD])
@pytest.mark.parametrize("files", [layout_files, saved_files])
async def test_an_archive_that_is_compressed_as_a_whole_is_read_too(
    files: Any, compression: str, image: BuiltImage, tmp_path: Path, staging: Path
) -> None:
    path = write_tar(tmp_path / "x.tar", files([image]))
    path.write_bytes(compress(path.read_bytes(), compression))
    archive = await open_archive(os.open(path, os.O_RDONLY), LIMITS)
    try:
        (found,) = await read_images(archive, Platform("amd64", "linux"))
        extent = await archive.find(found.layers[1].place)
        assert extent is not None
        assert b"".join(extent.chunks()) == image.layers[1].tar
        assert os.listdir(staging) == []
    finally:
        archive.close()
    assert found.id == image.id


async def test_a_bomb_is_stopped_by_the_ratio_and_by_the_bound(
    image: BuiltImage, tmp_path: Path, staging: Path
) -> None:
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(compress(bytes(100 << 20), ZSTD))
    with pytest.raises(ArchiveError, match=f"unpack to more than {64 << 20}, which is the limit"):
        await read(path)
    with pytest.raises(ArchiveError, match="unpack to more than 1000,"):
        await read(path, limits=TransferSettings(max_layer_bytes=1000, max_ratio=100_000, min_free=0))
    assert os.listdir(staging) == []


async def test_a_compressed_archive_leaves_the_disk_the_room_that_it_must(
    tmp_path: Path, staging: Path
) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(compress(bytes(16 << 20), ZSTD))
    with pytest.raises(Exhausted, match="must stay"):
        await read(
            path, limits=TransferSettings(max_layer_bytes=1 << 40, max_ratio=100_000, min_free=1 << 60)
        )
    assert os.listdir(staging) == []


async def test_a_cancelled_import_stops_inflating(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(compress(bytes(60 << 20), ZSTD))
    written: list[int] = []
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = inflate._write

    def slow(fd: int, data: bytes) -> None:
        real(fd, data)
        written.append(len(data))
        loop.call_soon_threadsafe(begun.set)

    monkeypatch.setattr(inflate, "_write", slow)
    task = asyncio.ensure_future(read(path))
    async with asyncio.timeout(60):
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert open_below(tmp_path) == []
    assert os.listdir(staging) == []


async def test_a_cancelled_import_reads_no_further_header(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "x.tar", {f"f{number}": b"" for number in range(100)})
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    read_headers = 0

    def add(self: TarArchive, member: object) -> None:
        nonlocal read_headers
        read_headers += 1
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(60)

    monkeypatch.setattr(TarArchive, "_add", add)
    task = asyncio.ensure_future(read(path))
    await begun.wait()
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    go.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert read_headers == 1
    assert open_below(tmp_path) == []
