"""Where volumes lie: image sub paths, declared volumes, and places that none may take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.bundle import host_resources, volumes
from crib.backends.bundle.host_resources import prepare_mount_sources, real_sources
from crib.backends.bundle.volumes import (
    MAX_DECLARED,
    Volumes,
    find_declared_volumes,
    image_volume_sources,
    make_declared_volumes,
)
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState, ImageVolume, Mount
from crib.model.errors import IMAGE_VOLUME_MOUNT_FAILED, Exhausted, InvalidRequest, NotFound, Unavailable
from crib.model.ids import ContainerId, Digest, ImageId, SandboxId
from crib.model.image import ImageConfig
from crib.model.paths import Paths
from crib.model.settings import Settings
from crib.ocispec.inputs import DeclaredVolume

ID = ContainerId("c" * 64)
ONE, TWO = ImageId("sha256:" + "1" * 64), ImageId("sha256:" + "2" * 64)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(data=f"{tmp_path}/data", state=f"{tmp_path}/run")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with links that try to leave it."""
    root = tmp_path / "root"
    for name in ("data/sub", "proc", "etc"):
        (root / name).mkdir(parents=True)
    (root / "data" / "file").write_text("x")
    for name, target in (
        *(("out", "../../../../.."), ("absolute", "/data"), ("proc-link", "/proc/sys")),
        *(("loop", "loop"), ("chain", "absolute/sub")),
    ):
        (root / name).symlink_to(target)
    return root


def record(*mounts: Mount, volumes: tuple[ImageVolume, ...] = ()) -> ContainerRecord:
    config = ContainerConfig("c", "i", mounts=mounts)
    plain = ContainerRecord(
        *(ID, SandboxId("5" * 64), config, ContainerState.CREATING, 0, ONE, "ref"), layers=(Digest("a"),)
    )
    return replace(plain, image_volumes=volumes)


def test_sub_paths_are_resolved_inside_their_image(paths: Paths, root: Path) -> None:
    top = Path(paths.image_volumes(ID))
    top.mkdir(parents=True)
    root.rename(top / "1")
    (top / "0").mkdir()
    subs = ("", "data", "data/file", "absolute/sub", "out/data")
    mounts = (Mount("/o", image="one"), *(Mount(f"/{sub}x", image="two", image_sub_path=sub) for sub in subs))
    volumes = (ImageVolume(0, ONE, ()), *(ImageVolume(n + 1, TWO, ()) for n in range(len(subs))))
    found = image_volume_sources(paths, record(*mounts, volumes=volumes))
    expected = ["0", "1", "1/data", "1/data/file", "1/data/sub", "1/data"]
    assert [os.path.relpath(found[n], top) for n in range(6)] == expected
    for bad in ("no", "loop", "data/file/x", "proc-link"):
        with pytest.raises(InvalidRequest, match=r"mounts\[0\]\.image_sub_path") as caught:
            image_volume_sources(
                paths, record(Mount("/v", image="o", image_sub_path=bad), volumes=(ImageVolume(0, ONE, ()),))
            )
        assert caught.value.reason == IMAGE_VOLUME_MOUNT_FAILED


def test_declared_volumes_are_found_where_they_really_are(paths: Paths, root: Path) -> None:
    wanted = [
        "/data",
        "relative/new",
        "/chain",
        "/absolute",
        "/",
        "/out",
        "/proc-link",
        "/sys/fs/cgroup",
        "/etc/hosts",
    ]
    found = find_declared_volumes(paths, record(), str(root), wanted)
    assert [volume.destination for volume in found] == ["/data", "/relative/new", "/data/sub"]
    assert len({volume.source for volume in found}) == 3


def test_a_mount_of_the_pod_at_or_above_a_declared_volume_wins(paths: Paths, root: Path) -> None:
    owner = record(Mount("/data", "/x"), Mount("/a/b", "/x"))
    found = find_declared_volumes(
        paths, owner, str(root), ["/data", "/absolute/sub", "/a/b/c", "/a", "/database"]
    )
    assert [volume.destination for volume in found] == ["/a", "/database"]


def test_declared_volumes_are_bounded(paths: Paths, root: Path) -> None:
    for bad in (["/v"] * 2 + [f"/{n}" for n in range(MAX_DECLARED)], ["a\0b"], ["/loop"]):
        with pytest.raises(InvalidRequest, match=r"image"):
            find_declared_volumes(paths, record(), str(root), bad)


def test_copying_up_stays_in_the_root_and_names_what_is_no_directory(tmp_path: Path, root: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "of-the-host").touch()
    make_declared_volumes(str(root), [DeclaredVolume("/out/data", f"{tmp_path}/v/0")])
    assert sorted(os.listdir(tmp_path / "v" / "0")) == ["file", "sub"]
    make_declared_volumes(str(root), [DeclaredVolume("/not/there", f"{tmp_path}/v/1")])
    assert os.listdir(tmp_path / "v" / "1") == []
    with pytest.raises(InvalidRequest, match="/data/file"):
        make_declared_volumes(str(root), [DeclaredVolume("/data/file", f"{tmp_path}/v/2")])


def test_copying_up_leaves_the_space_that_must_stay_free(tmp_path: Path, root: Path) -> None:
    with pytest.raises(Exhausted, match=r"volume /data of the image .* must stay \(images.min_free\)"):
        make_declared_volumes(str(root), [DeclaredVolume("/data", f"{tmp_path}/v")], min_free=1 << 60)


def test_copying_up_takes_a_bounded_time(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_COPY_SECONDS", -1)
    with pytest.raises(Unavailable, match="volume /data of the image cannot be copied: it takes longer"):
        make_declared_volumes(str(root), [DeclaredVolume("/data", f"{tmp_path}/v")])


def test_the_bounds_hold_for_all_volumes_together(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "_COPY_ENTRIES", 3)
    declared = [DeclaredVolume("/data", f"{tmp_path}/v/{number}") for number in range(2)]
    make_declared_volumes(str(root), declared[:1])
    with pytest.raises(InvalidRequest, match=r"more than 3 files; image_volumes = \"mkdir\""):
        make_declared_volumes(str(root), [*declared[1:], DeclaredVolume("/data", f"{tmp_path}/v/2")])


def test_host_paths_are_mounted_where_their_links_lead(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    given = (Mount("/a", f"{tmp_path}/link"), Mount("/b", f"{tmp_path}/link/new"), Mount("/c", image="i"))
    assert real_sources(ContainerConfig("c", "i", mounts=given)) == [
        f"{tmp_path}/real",
        f"{tmp_path}/real/new",
        "",
    ]


def test_a_missing_path_of_the_node_is_not_made_by_another_name_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setattr(host_resources, "REFUSED_SOURCES", {f"{tmp_path}/real/hosts"})
    wanted = ContainerConfig("c", "i", mounts=(Mount("/m", f"{tmp_path}/link/hosts"),))
    with pytest.raises(InvalidRequest, match="never made"):
        prepare_mount_sources(wanted, "create")


class NoLayers:
    """No image has any."""

    async def acquire(self, layers: Sequence[Digest]) -> Sequence[str]:
        raise NotFound("layer is not on disk")


def test_the_setting_says_what_becomes_of_declared_volumes(paths: Paths, root: Path) -> None:
    image = ImageConfig(volumes=("/data",))
    made = {
        way: Volumes(paths, NoLayers(), Settings(image_volumes=way)) for way in ("bind", "mkdir", "ignore")
    }
    plain = {way: volumes.plain(image) for way, volumes in made.items()}
    assert plain == {"bind": (), "mkdir": ("/data",), "ignore": ()}
    assert {way: len(volumes.declared(record(), str(root), image)) for way, volumes in made.items()} == {
        "bind": 1,
        "mkdir": 0,
        "ignore": 0,
    }


async def test_layers_that_are_not_here_fail_an_image_volume_in_the_cris_words(paths: Paths) -> None:
    wanted = record(Mount("/v", image="i"), volumes=(ImageVolume(0, ONE, (Digest("a"),)),))
    with pytest.raises(NotFound, match="not on disk") as caught:
        await Volumes(paths, NoLayers(), Settings()).acquire(wanted)
    assert caught.value.reason == IMAGE_VOLUME_MOUNT_FAILED
