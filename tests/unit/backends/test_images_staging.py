"""Layers are taken over from the worker without believing it."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.images.messages import staged_name
from crib.backends.images.staging import Staging, WorkerUser
from crib.backends.images.worker.layers import LayerClaims, LayerOptions, write_layer
from crib.model.errors import Broken
from crib.model.facts import LayerMounting
from crib.model.ids import Digest
from crib.model.image import Layer
from crib.model.image_settings import StoreSettings
from crib.model.paths import Paths
from tests.images import PLAIN, BuiltLayer, Entry, layer_tar

BUILT = BuiltLayer(layer_tar([Entry("file", b"x" * 10_000)]), PLAIN)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "data/layers").mkdir(parents=True)
    return Paths(str(tmp_path / "data"), str(tmp_path / "state"))


@pytest.fixture
def staging(paths: Paths) -> Staging:
    user = WorkerUser(os.geteuid(), os.getegid())
    made = Staging(
        paths, user, StoreSettings(partial_bytes=1 << 20), LayerMounting("file", 512, direct_io=True)
    )
    made.prepare()
    return made


def stage(paths: Paths) -> Layer:
    path = f"{paths.staging}/{staged_name(BUILT.diff_id)}"
    facts = write_layer([BUILT.blob], path, LayerClaims(), LayerOptions())
    return Layer(Digest(facts.diff_id), Digest(facts.blob_digest), facts.file_size)


def left(paths: Paths) -> list[str]:
    return os.listdir(paths.staging) + os.listdir(paths.layers)


def test_a_whole_layer_is_taken_over(paths: Paths, staging: Staging) -> None:
    layer = stage(paths)
    assert staging.adopt([layer, layer]) == {layer.diff_id: layer.size}
    assert left(paths) == [staged_name(layer.diff_id)]
    assert os.stat(paths.layer_file(layer.diff_id)).st_mode & 0o777 == 0o400


def test_a_layer_that_is_here_already_is_not_replaced(paths: Paths, staging: Staging) -> None:
    layer = stage(paths)
    staging.adopt([layer])
    inode = os.stat(paths.layer_file(layer.diff_id)).st_ino
    assert staging.adopt([stage(paths)]) == {layer.diff_id: layer.size}
    assert os.stat(paths.layer_file(layer.diff_id)).st_ino == inode
    assert os.listdir(paths.staging) == []


def test_a_missing_file_is_named(paths: Paths, staging: Staging) -> None:
    with pytest.raises(Broken, match="did not leave"):
        staging.adopt([Layer(Digest(BUILT.diff_id), Digest(BUILT.diff_id), 1)])


def test_a_file_that_is_still_open_for_writing_is_refused(paths: Paths, staging: Staging) -> None:
    layer = stage(paths)
    with (
        open(f"{paths.staging}/{staged_name(layer.diff_id)}", "r+b"),
        pytest.raises(Broken, match="still open"),
    ):
        staging.adopt([layer])
    assert left(paths) == []


def test_a_file_with_a_second_name_is_refused(paths: Paths, staging: Staging, tmp_path: Path) -> None:
    layer = stage(paths)
    os.link(f"{paths.staging}/{staged_name(layer.diff_id)}", tmp_path / "second")
    with pytest.raises(Broken, match="2 links"):
        staging.adopt([layer])
    assert left(paths) == []


def test_a_link_to_a_file_of_the_host_is_refused(paths: Paths, staging: Staging) -> None:
    os.symlink("/etc/passwd", f"{paths.staging}/{staged_name(BUILT.diff_id)}")
    with pytest.raises(OSError, match="symbolic links"):
        staging.adopt([Layer(Digest(BUILT.diff_id), Digest(BUILT.diff_id), 4096)])
    assert left(paths) == []


@pytest.mark.parametrize("content", [b"", b"short", bytes(8192)])
def test_what_is_no_erofs_is_refused(content: bytes, paths: Paths, staging: Staging) -> None:
    Path(paths.staging, staged_name(BUILT.diff_id)).write_bytes(content)
    with pytest.raises(Broken, match="not the EROFS file"):
        staging.adopt([Layer(Digest(BUILT.diff_id), Digest(BUILT.diff_id), len(content))])
    assert left(paths) == []


def staged_over(paths: Paths, offset: int, content: bytes) -> Layer:
    """A staged layer, of which the worker has changed some bytes."""
    layer = stage(paths)
    with open(f"{paths.staging}/{staged_name(layer.diff_id)}", "r+b") as file:
        file.seek(offset)
        file.write(content)
    return layer


def refused(paths: Paths, staging: Staging, layer: Layer) -> str:
    with pytest.raises(Broken) as error:
        staging.adopt([layer])
    assert left(paths) == []
    return error.value.message


# Places in an EROFS superblock (kernel, fs/erofs/erofs_fs.h, struct erofs_super_block).
@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (4, b"\1"),  # checksum
        (8, b"\3"),  # feature_compat: a checksum is there
        (13, b"\1"),  # sb_extslots
        (40, b"\1"),  # blocks
        (48, b"v"),  # xattr_blkaddr and uuid
        (80, b"\1"),  # feature_incompat: compressed with LZ4 padding
        (80, b"\4"),  # feature_incompat: chunked files
        (84, b"\xff"),  # available_compr_algs
        (104, b"\1"),  # packed_nid
        (112, b"\1"),  # metabox and what later kernels know
    ],
)
def test_a_superblock_with_a_feature_that_our_writer_does_not_use_is_refused(
    offset: int, content: bytes, paths: Paths, staging: Staging
) -> None:
    layer = staged_over(paths, 1024 + offset, content)
    assert "not the EROFS file" in refused(paths, staging, layer)


def test_a_device_table_is_refused_for_kernels_open_the_block_device_that_it_names(
    paths: Paths, staging: Staging
) -> None:
    layer = staged_over(paths, 1024 + 86, b"\1\0\x20\0")  # extra_devices, devt_slotoff
    assert "features that our writer does not use" in refused(paths, staging, layer)
    layer = staged_over(paths, 1024 + 80, b"\x08\0\0\0")  # feature_incompat DEVICE_TABLE
    assert "features that our writer does not use" in refused(paths, staging, layer)


@pytest.mark.parametrize("offset", [0, 600, 1023, 1152, 4095])
def test_a_label_of_something_else_around_the_superblock_is_refused(
    offset: int, paths: Paths, staging: Staging
) -> None:
    layer = staged_over(paths, offset, b"L")
    assert "before or behind the superblock" in refused(paths, staging, layer)


def test_blocks_of_a_size_that_was_not_asked_for_are_refused(paths: Paths, staging: Staging) -> None:
    path = f"{paths.staging}/{staged_name(BUILT.diff_id)}"
    facts = write_layer([BUILT.blob], path, LayerClaims(), LayerOptions(block_size=4096))
    layer = Layer(Digest(facts.diff_id), Digest(facts.blob_digest), facts.file_size)
    assert "blocks have 4096 bytes, not 512" in refused(paths, staging, layer)


def test_metadata_that_our_writer_does_not_make_is_refused(paths: Paths, staging: Staging) -> None:
    layer = stage(paths)
    with open(f"{paths.staging}/{staged_name(layer.diff_id)}", "rb") as file:
        whole = file.read()
    os.unlink(f"{paths.staging}/{staged_name(layer.diff_id)}")
    metadata = int.from_bytes(whole[1064:1068], "little") * 512
    root = metadata + 2 * 32
    file_inode = metadata + 4 * 32
    for place, content, problem in (
        (root, b"\x03", "not what our writer makes"),  # compressed layout
        (root + 4, b"\xed\x11", "a device or fifo of"),  # the root is a fifo
        (root + 16, (1).to_bytes(4, "little"), "must lie in"),  # its names are in the superblock's block
        (file_inode + 8, (1 << 60).to_bytes(8, "little"), "must lie in"),
        (file_inode + 16, b"\1", "must lie in"),  # the file's data is the superblock
        (whole.index(b"...file", metadata) - 36 + 24, (2).to_bytes(8, "little"), "reached before"),
        (whole.index(b"...file", metadata) + 3, b"fi/e", "out of place"),
        (whole.index(b"...file", metadata) + 7, b"s", "follows the last name"),
    ):
        assert problem in refused(paths, staging, staged_over(paths, place, content))


def test_more_data_than_the_file_holds_cannot_be_announced(paths: Paths, staging: Staging) -> None:
    for size in (-1, 1 << 40):
        layer = replace(stage(paths), data_size=size)
        assert "of data" in refused(paths, staging, layer)


def test_preparing_removes_what_an_earlier_worker_left(paths: Paths, staging: Staging) -> None:
    Path(paths.staging, "partial-1").write_bytes(b"x")
    Path(paths.staging, "deep/er").mkdir(parents=True)
    staging.prepare()
    assert os.listdir(paths.staging) == []


def blob(paths: Paths, name: str, *, age: float = 0.0, size: int = 100_000) -> Path:
    path = Path(paths.staging, f"{name}.blob")
    path.write_bytes(os.urandom(size))
    os.utime(path, (0, time.time() - age))
    return path


def test_blobs_that_came_in_part_are_kept_for_a_while(paths: Paths, staging: Staging) -> None:
    kept = blob(paths, "young")
    blob(paths, "old", age=25 * 3600)
    staging.prepare()
    assert os.listdir(paths.staging) == [kept.name]


def test_the_oldest_parts_go_when_they_are_too_many(paths: Paths, staging: Staging) -> None:
    for number in range(5):
        blob(paths, str(number), age=number, size=300_000)
    staging.prepare()
    assert sorted(os.listdir(paths.staging)) == ["0.blob", "1.blob", "2.blob"]


def test_what_only_looks_like_a_part_of_a_blob_goes(paths: Paths, staging: Staging) -> None:
    os.symlink("/etc/passwd", f"{paths.staging}/link.blob")
    Path(paths.staging, "directory.blob").mkdir()
    os.link(blob(paths, "linked"), f"{paths.staging}/twice.blob")
    staging.prepare()
    assert os.listdir(paths.staging) == []


def test_layers_that_are_being_taken_over_survive_a_new_worker(paths: Paths, staging: Staging) -> None:
    layer = stage(paths)
    staging.prepare([layer.diff_id])
    assert staging.adopt([layer]) == {layer.diff_id: layer.size}


def test_a_layer_that_is_damaged_is_replaced(paths: Paths, staging: Staging) -> None:
    layer = stage(paths)
    staging.adopt([layer])
    inode = os.stat(paths.layer_file(layer.diff_id)).st_ino
    staging.adopt([stage(paths)], [layer.diff_id])
    assert os.stat(paths.layer_file(layer.diff_id)).st_ino != inode
    assert left(paths) == [staged_name(layer.diff_id)]
