"""Volumes of kind `image` over layers of a real store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.volumes.image import ImageVolumes
from crib.host import mounts
from crib.model.errors import InvalidRequest, NotFound, WrongState
from crib.model.ids import Digest, ImageId
from crib.model.volumes import VolumeRecord, VolumeSpec
from tests.images import BuiltImage, BuiltLayer, Entry, layer_tar, machine_architecture, write_layout
from tests.system.labs.image_lab import ImageLab, image_lab
from tests.system.labs.volume_lab import VolumeLab, use_by

pytestmark = pytest.mark.root

SPEC = VolumeSpec("image", source="tools:1")


@pytest.fixture
async def images(private_root: Path) -> AsyncIterator[ImageLab]:
    async with image_lab(private_root) as lab:
        yield lab


async def test_files_have_the_label_that_every_container_may_read(
    images: ImageLab, private_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is SELinux, it is asked for in the mount: read-only files get no label later."""
    lab, record = await opened(images, private_root, "one")
    kind = ImageVolumes(images.paths, images.store.mounts, label="system_u:object_r:container_file_t:s0")
    asked: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr(mounts, "perform", asked.append)
        await kind.stage(record)
    found = [one.context for one in asked if isinstance(one, mounts.Overlay)]
    assert found == ["system_u:object_r:container_file_t:s0"]
    await lab.kind.unstage(record)


async def opened(images: ImageLab, place: Path, *contents: str) -> tuple[VolumeLab, VolumeRecord]:
    """A volume of an image with one layer for each content of its file."""
    layers = tuple(BuiltLayer(layer_tar([Entry("file", text.encode())])) for text in contents)
    image = BuiltImage(layers, names=("tools:1",), architecture=machine_architecture())
    path = write_layout(place / "image", [image])
    (fetched,) = await images.store.import_archive(str(path), images.told.append)
    lab = VolumeLab(ImageVolumes(images.paths, images.store.mounts), images.paths)
    os.makedirs(images.paths.volume_mounts)
    await lab.kind.check_spec(SPEC)
    record = await lab.new(SPEC)
    return lab, replace(record, image_id=fetched.id, layers=tuple(each.diff_id for each in fetched.layers))


@pytest.mark.parametrize("contents", [("one",), ("below", "above")])
async def test_pods_read_the_files_of_an_image_and_write_none(
    images: ImageLab, private_root: Path, contents: tuple[str, ...]
) -> None:
    lab, record = await opened(images, private_root, *contents)
    try:
        for _ in range(2):
            record = await lab.staged(record)
        path = await lab.kind.publish(record, use_by("pod"))
        assert Path(path, "file").read_text() == contents[-1]
        with pytest.raises(OSError, match="Read-only"):
            Path(path, "file").write_text("no")
        assert len(mounts.mounts_below(path)) == 1
        assert ((await lab.kind.usage(record)).inodes_used or 0) >= 2
        assert await lab.kind.check(record) == []
        mounts.unmount(path)
        (found,) = await lab.kind.check(record)
        assert found.mend == "it is mounted again"
        with pytest.raises(WrongState, match="nothing is mounted"):
            await lab.kind.publish(record, use_by("pod"))
        record = await lab.unstaged(await lab.staged(record))
        await lab.kind.delete(record)
        await lab.kind.delete(record)
        assert not os.path.lexists(path)
    finally:
        lab.close()


async def test_an_image_whose_layers_are_gone_is_not_staged(images: ImageLab, private_root: Path) -> None:
    lab, record = await opened(images, private_root, "one")
    gone = replace(record, image_id=ImageId("sha256:" + "0" * 64), layers=(Digest("sha256:" + "0" * 64),))
    with pytest.raises(NotFound, match="not on disk"):
        await lab.staged(gone)
    (found,) = await lab.kind.check(gone)
    assert "cannot be mounted" in found.problem
    await lab.kind.delete(gone)


async def test_an_image_has_nothing_to_set(images: ImageLab) -> None:
    kind = ImageVolumes(images.paths, images.store.mounts)
    for field, value in {"source": "", "fs_type": "ext4", "mount_options": ("ro",)}.items():
        with pytest.raises(InvalidRequest) as caught:
            await kind.check_spec(replace(SPEC, **{field: value}))  # type: ignore[arg-type]  # a table of fields
        assert caught.value.field == field
