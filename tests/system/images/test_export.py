"""Images go out of one store and into another, however their layers are kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from crib.host import threads
from crib.model.errors import Broken, InvalidRequest, Unavailable
from crib.model.image import ExportedImage, FetchedImage, ImageRecord, Progress
from tests.hung_mount import hung_mount
from tests.images import (
    GZIP,
    ZSTD,
    Entry,
    busybox_image,
    compress,
    directory,
    write_oci_archive,
    write_saved_archive,
)
from tests.system.labs.daemon import until
from tests.system.labs.image_lab import ImageLab, image_lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

BOUND = 20.0
"""Seconds for what ends within one."""
NAME = "docker.io/library/one:1"
IMAGE = busybox_image(
    [directory("etc"), Entry("etc/one", b"1"), Entry("bin/.wh.vi"), Entry("var/.wh..wh..opq")], name=NAME
)
OTHER = busybox_image([Entry("two", b"2" * 100_000)], name="docker.io/library/two:2")


def ignore(progress: Progress) -> None:
    assert progress.stage


def exported(fetched: FetchedImage) -> ExportedImage:
    record = ImageRecord(fetched.id, fetched.config, fetched.layers, fetched.names)
    return ExportedImage(record, fetched.documents, fetched.names)


async def moved(lab: ImageLab, path: Path, archive_format: str, root: Path) -> list[FetchedImage]:
    """Both images into the store, out of it, and into another one; what arrived there."""
    archive = write_oci_archive(path.with_name("in.tar"), [IMAGE, OTHER])
    fetched = await lab.store.import_archive(str(archive), ignore)
    assert [image.id for image in fetched] == [IMAGE.id, OTHER.id]
    images = [exported(image) for image in fetched]
    assert await lab.store.export(str(path), images, archive_format) == path.stat().st_size
    async with image_lab(root) as other:
        arrived = list(await other.store.import_archive(str(path), ignore))
        for image in arrived:
            for layer in image.layers:
                assert await other.store.check(layer) == ""
    return arrived


@pytest.mark.parametrize("archive_format", ["oci", "docker"])
async def test_an_image_keeps_its_id_and_names_on_its_way(tmp_path: Path, archive_format: str) -> None:
    async with image_lab(tmp_path, block_size=512) as lab:
        arrived = await moved(lab, tmp_path / "out.tar", archive_format, tmp_path / "other")
    assert [image.id for image in arrived] == [IMAGE.id, OTHER.id]
    assert [image.names for image in arrived] == [IMAGE.names, OTHER.names]
    assert [image.documents.config for image in arrived] == [IMAGE.config_blob, OTHER.config_blob]


@pytest.mark.parametrize("settings", [{"block_size": 4096}, {"mount_method": "directory"}], ids=str)
async def test_layers_without_their_tar_arrive_as_the_same_files_under_another_id(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    async with image_lab(tmp_path, **settings) as lab:
        first = await moved(lab, tmp_path / "out.tar", "oci", tmp_path / "other")
        second = await moved(lab, tmp_path / "again.tar", "docker", tmp_path / "another")
    assert [image.names for image in first] == [IMAGE.names, OTHER.names]
    assert [image.id for image in first] == [image.id for image in second]
    assert first[0].id != IMAGE.id
    assert first[0].config == second[0].config
    assert first[0].layers[0].diff_id == first[1].layers[0].diff_id


@pytest.mark.parametrize("compression", [GZIP, ZSTD])
async def test_an_archive_that_is_compressed_as_a_whole_is_imported(tmp_path: Path, compression: str) -> None:
    archive = write_saved_archive(tmp_path / "x.tar", [IMAGE])
    archive.write_bytes(compress(archive.read_bytes(), compression))
    async with image_lab(tmp_path) as lab:
        (fetched,) = await lab.store.import_archive(str(archive), ignore)
        assert fetched.id == IMAGE.id
        assert fetched.documents.config == IMAGE.config_blob
        assert lab.staged() == []


async def test_an_export_to_a_path_that_does_not_answer_ends_soon_and_keeps_its_own_layers_only(
    private_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_saved_archive(private_root / "in.tar", [IMAGE, OTHER])
    (place := private_root / "place").mkdir()
    async with image_lab(private_root) as lab:
        fetched = await lab.store.import_archive(str(archive), ignore)
        own, other = ({layer.diff_id for layer in image.layers} for image in fetched)
        path = f"{place}/out.tar"
        with hung_mount(place):
            exporting = asyncio.ensure_future(lab.store.export(path, [exported(fetched[0])], "oci"))
            await until(lambda: any(path in wait.what for wait in threads.waiting()))
            assert set(await lab.store.sweep(())) == other - own
            assert set(await lab.store.present()) == own
            monkeypatch.setattr("crib.backends.images.store.ARCHIVE_SECONDS", 0.1)
            second = asyncio.ensure_future(lab.store.export(path, [exported(fetched[0])], "oci"))
            await asyncio.wait([second], timeout=BOUND)
            is_over = second.done()
        assert is_over
        with pytest.raises(Unavailable, match=f"looking at the place of the archive {path}: takes more"):
            await second
        with pytest.raises(InvalidRequest, match="cannot be opened"):  # the connection was aborted
            await exporting
        assert set(await lab.store.sweep(())) == own


async def test_a_damaged_layer_is_found_and_not_exported(tmp_path: Path) -> None:
    archive = write_saved_archive(tmp_path / "x.tar", [IMAGE])
    async with image_lab(tmp_path) as lab:
        (fetched,) = await lab.store.import_archive(str(archive), ignore)
        for layer in fetched.layers:
            assert await lab.store.check(layer) == ""
        layer = fetched.layers[1]
        path = Path(lab.paths.layer_file(layer.diff_id))
        content = bytearray(path.read_bytes())
        content[5000] ^= 1
        path.chmod(0o600)
        path.write_bytes(content)
        assert "is damaged" in await lab.store.check(layer)
        with pytest.raises(Broken, match=layer.diff_id):
            await lab.store.export(str(tmp_path / "out.tar"), [exported(fetched)], "oci")
        assert not list(tmp_path.glob("out.tar*"))
