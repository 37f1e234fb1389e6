"""Layers are taken over from the worker without believing it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from crib.backends.images.messages import staged_name
from crib.backends.images.staging import Staging, WorkerUser
from crib.backends.images.worker.layers import LayerClaims, LayerOptions, write_layer
from crib.model.errors import Broken
from crib.model.ids import Digest
from crib.model.image import Layer
from crib.model.paths import Paths
from crib.model.settings import ImageSettings
from tests.images import PLAIN, BuiltLayer, Entry, layer_tar

BUILT = BuiltLayer(layer_tar([Entry("file", b"x" * 10_000)]), PLAIN)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "data/layers").mkdir(parents=True)
    return Paths(str(tmp_path / "data"), str(tmp_path / "state"))


@pytest.fixture
def staging(paths: Paths) -> Staging:
    made = Staging(paths, WorkerUser(os.geteuid(), os.getegid()), ImageSettings(partial_bytes=1 << 20))
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
