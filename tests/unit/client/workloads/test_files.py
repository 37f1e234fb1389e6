"""Volumes on a real file system; what needs mounts needs root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crib.client.errors import PodFailure
from crib.client.workloads import files
from crib.manifest.plan import ContainerPlan, Dirs, PodPlan, SubPathPlan, VolumePlan
from crib.stubs.runtime.v1 import api_pb2 as cri


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


@pytest.mark.parametrize("inside", ["evil", "evil/passwd", "deep/evil", "file/x"])
def test_a_sub_path_through_a_link_or_a_file_is_refused(tmp_path: Path, inside: str) -> None:
    volume = tmp_path / "v"
    (volume / "deep").mkdir(parents=True)
    (volume / "file").write_text("")
    (volume / "evil").symlink_to("/etc")
    (volume / "deep/evil").symlink_to("../../..")
    with pytest.raises(PodFailure, match=f"subPath {inside} of .*symbolic links are not followed"):
        files.bind_sub_paths(part(str(volume), inside, f"{tmp_path}/t/0"))
    assert files.mounts_below(str(tmp_path)) == []


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
    files.bind_sub_paths(part(str(host), "in", target))
    files.bind_sub_paths(part(str(host), "new/dir", dirs.sub_path("u1", "a", 1)))
    files.bind_sub_paths(part(str(host), "in/keep", dirs.sub_path("u1", "a", 2)))
    assert Path(target, "keep").read_text() == "precious"
    assert Path(dirs.sub_path("u1", "a", 2)).read_text() == "precious"
    assert len(files.mounts_below(dirs.pod("u1"))) == 4
    files.remove(dirs, "u1")
    assert (host / "in/keep").read_text() == "precious"
    assert (host / "new/dir").is_dir()
    assert files.mounts_below(str(tmp_path)) == []
    assert os.listdir(f"{tmp_path}/pods") == []
