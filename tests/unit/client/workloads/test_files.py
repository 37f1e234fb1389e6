"""Volumes on a real file system; what needs mounts needs root."""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from pathlib import Path

import pytest

from crib.client.errors import PodFailure
from crib.client.workloads import files
from crib.client.workloads.mounting import mounts_below
from crib.client.workloads.sub_paths import bind_sub_paths
from crib.manifest.plan import ContainerPlan, Dirs, PodPlan, SubPathPlan, VolumePlan
from crib.stubs.runtime.v1 import api_pb2 as cri

AT_FDCWD, RENAME_EXCHANGE = -100, 2


def plan(dirs: Dirs, *planned: VolumePlan) -> PodPlan:
    container = ContainerPlan("a", "image", "Never", cri.ContainerConfig())
    return PodPlan(
        name="web",
        namespace="default",
        uid="u1",
        directory=dirs.pod("u1"),
        sandbox=cri.PodSandboxConfig(log_directory=dirs.logs("u1")),
        handler="",
        init_containers=(),
        containers=(container,),
        volumes=planned,
    )


def part(volume: str, inside: str, target: str) -> ContainerPlan:
    sub_path = SubPathPlan(0, volume, inside, target)
    return ContainerPlan("a", "image", "Never", cri.ContainerConfig(), sub_paths=(sub_path,))


def test_missing_host_paths_are_made_only_where_the_type_says_so(tmp_path: Path) -> None:
    dirs = Dirs(f"{tmp_path}/pods")
    made = plan(
        dirs,
        VolumePlan("d", "hostPath", path=f"{tmp_path}/d/e", host_type="DirectoryOrCreate"),
        VolumePlan("f", "hostPath", path=f"{tmp_path}/f", host_type="FileOrCreate"),
        VolumePlan("x", "hostPath", path=f"{tmp_path}/x"),
    )
    files.check(made)
    files.make(made, dirs)
    assert (tmp_path / "d/e").is_dir()
    assert (tmp_path / "f").is_file()
    assert not (tmp_path / "x").exists()
    files.remove(dirs, "u1")
    assert (tmp_path / "d/e").is_dir()
    assert os.listdir(f"{tmp_path}/pods") == []
    with pytest.raises(PodFailure, match=r"volume s: .*/s does not exist \(type Socket\)"):
        files.check(plan(dirs, VolumePlan("s", "hostPath", path=f"{tmp_path}/s", host_type="Socket")))


def test_what_is_left_over_of_a_pod_is_never_taken_over(tmp_path: Path) -> None:
    dirs = Dirs(f"{tmp_path}/pods")
    os.makedirs(dirs.pod("u1"))
    with pytest.raises(PodFailure, match="is left over from a pod with this uid"):
        files.check(plan(dirs))


def test_a_pods_directory_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "pods").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "pods/u1").symlink_to(tmp_path / "victim")
    files.remove(Dirs(f"{tmp_path}/pods"), "u1")
    assert (tmp_path / "victim").is_dir()


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ("evil", "a symbolic link leads out of the volume"),
        ("evil/passwd", "a symbolic link leads out of the volume"),
        ("evil/new", "a symbolic link leads out of the volume"),
        ("deep/evil", "a symbolic link leads out of the volume"),
        ("file/x", "Not a directory"),
        ("socket", "neither a directory nor a file"),
        ("dangling", "No such file or directory"),
    ],
)
def test_a_sub_path_that_leads_out_of_the_volume_is_refused(tmp_path: Path, inside: str, told: str) -> None:
    volume = tmp_path / "v"
    (volume / "deep").mkdir(parents=True)
    (volume / "file").write_text("")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("")
    (volume / "evil").symlink_to(outside)
    (volume / "deep/evil").symlink_to("../../..")
    (volume / "dangling").symlink_to("nothing")
    os.mknod(volume / "socket", stat.S_IFSOCK | 0o600)
    with pytest.raises(PodFailure, match=f"subPath {inside} of .*{told}"):
        bind_sub_paths(part(str(volume), inside, f"{tmp_path}/t/0"))
    assert mounts_below(str(tmp_path)) == []
    assert os.listdir(outside) == ["passwd"]


@pytest.mark.root
def test_a_sub_path_through_a_link_within_the_volume_is_what_the_link_means(tmp_path: Path) -> None:
    dirs = Dirs(f"{tmp_path}/pods")
    (tmp_path / "v/releases/42").mkdir(parents=True)
    (tmp_path / "v/current").symlink_to("releases/42")
    (tmp_path / "v/up").symlink_to("releases/../releases")
    files.make(plan(dirs), dirs)
    try:
        for index, (inside, found) in enumerate(
            [("current", "releases/42"), ("up/43/log", "releases/43/log")]
        ):
            target = dirs.sub_path("u1", "a", index)
            bind_sub_paths(part(f"{tmp_path}/v", inside, target))
            assert os.path.samefile(target, tmp_path / "v" / found)
    finally:
        files.remove(dirs, "u1")


@pytest.mark.root
def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere_else(tmp_path: Path) -> None:
    """A container exchanges a directory with a link that leads out, over and over, while parts are bound."""
    volume, outside = tmp_path / "v", tmp_path / "outside"
    (volume / "a/in").mkdir(parents=True)
    (outside / "in").mkdir(parents=True)
    (volume / "evil").symlink_to(outside)
    dirs = Dirs(f"{tmp_path}/pods")
    files.make(plan(dirs), dirs)
    done, renameat2 = threading.Event(), ctypes.CDLL(None).renameat2

    def exchange() -> None:
        while not done.is_set():
            renameat2(AT_FDCWD, bytes(volume / "a"), AT_FDCWD, bytes(volume / "evil"), RENAME_EXCHANGE)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for index in range(100):
            target = dirs.sub_path("u1", "a", index)
            try:
                bind_sub_paths(part(str(volume), "a/in", target))
            except PodFailure as error:
                assert "leads out of the volume" in str(error)  # noqa: PT017  # either is right
            else:
                assert not os.path.samefile(target, outside / "in")
    finally:
        done.set()
        thread.join()
        files.remove(dirs, "u1")


@pytest.mark.root
def test_a_sub_path_is_bound_and_rm_leaves_what_was_bound(tmp_path: Path) -> None:
    dirs = Dirs(f"{tmp_path}/pods")
    host = tmp_path / "host"
    (host / "in").mkdir(parents=True)
    (host / "in/keep").write_text("precious")
    files.make(
        plan(dirs, VolumePlan("m", "emptyDir", dirs.volume("u1", "m"), memory=True, size=1 << 20)), dirs
    )
    target = dirs.sub_path("u1", "a", 0)
    bind_sub_paths(part(str(host), "in", target))
    bind_sub_paths(part(str(host), "new/dir", dirs.sub_path("u1", "a", 1)))
    bind_sub_paths(part(str(host), "in/keep", dirs.sub_path("u1", "a", 2)))
    assert Path(target, "keep").read_text() == "precious"
    assert Path(dirs.sub_path("u1", "a", 2)).read_text() == "precious"
    assert len(mounts_below(dirs.pod("u1"))) == 4
    files.remove(dirs, "u1")
    assert (host / "in/keep").read_text() == "precious"
    assert (host / "new/dir").is_dir()
    assert mounts_below(str(tmp_path)) == []
    assert os.listdir(f"{tmp_path}/pods") == []
