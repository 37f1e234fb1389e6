"""Volumes as they are made on a real file system: layout, modes, owners."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from crib.client.errors import PodFailure
from crib.client.workloads import files
from crib.client.workloads.generated import read_files, write_files
from crib.client.workloads.mounting import mounts_below
from crib.client.workloads.ownership import set_group
from crib.client.workloads.sub_paths import bind_sub_paths
from crib.manifest.plan import (
    ContainerPlan,
    Dirs,
    HostsPlan,
    PodPlan,
    SubPathPlan,
    VolumeFile,
    VolumePlan,
)
from crib.stubs.runtime.v1 import api_pb2 as cri

CONTENT = (VolumeFile("a/b.conf", b"one", 0o640), VolumeFile("key", b"two", 0o400))


def plan(dirs: Dirs, *planned: VolumePlan, uid: str = "u1") -> PodPlan:
    container = ContainerPlan("a", "image", "Never", cri.ContainerConfig())
    return PodPlan(
        name="web",
        namespace="default",
        uid=uid,
        directory=dirs.pod(uid),
        sandbox=cri.PodSandboxConfig(log_directory=dirs.logs(uid)),
        handler="",
        init_containers=(),
        containers=(container,),
        volumes=planned,
    )


def test_files_have_a_kubelets_layout_and_their_modes(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_files(str(tmp_path), CONTENT)
    finally:
        os.umask(before)
    assert (tmp_path / "a/b.conf").read_bytes() == b"one"
    assert os.readlink(tmp_path / "key") == "..data/key"
    assert os.readlink(tmp_path / "a") == "..data/a"
    assert os.readlink(tmp_path / "..data").startswith("..20")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o400
    assert stat.S_IMODE((tmp_path / "a/b.conf").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert read_files(str(tmp_path)) == {"a/b.conf": b"one", "key": b"two"}


@pytest.mark.root
def test_secret_files_are_on_a_file_system_in_memory_and_belong_to_the_group(tmp_path: Path) -> None:
    dirs = Dirs(f"{tmp_path}/pods")
    volume = VolumePlan("s", "files", dirs.volume("u1", "s"), memory=True, files=CONTENT, group=1234)
    files.make(plan(dirs, volume), dirs)
    try:
        assert volume.path in mounts_below(dirs.pod("u1"))
        status = os.stat(f"{volume.path}/key")
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 0o440)
    finally:
        files.remove(dirs, "u1")
    assert os.listdir(f"{tmp_path}/pods") == []


@pytest.mark.root
@pytest.mark.parametrize("content", [(), CONTENT])
def test_a_file_system_for_files_is_no_larger_than_they_need(
    tmp_path: Path, content: tuple[VolumeFile, ...]
) -> None:
    dirs = Dirs(f"{tmp_path}/pods")
    volume = VolumePlan("s", "files", dirs.volume("u1", "s"), memory=True, files=content)
    files.make(plan(dirs, volume), dirs)
    try:
        status = os.statvfs(volume.path)
        assert status.f_blocks * status.f_frsize < 2 << 20
    finally:
        files.remove(dirs, "u1")


@pytest.mark.root
def test_a_part_of_generated_files_is_bound_and_none_is_made(tmp_path: Path) -> None:
    dirs = Dirs(f"{tmp_path}/pods")
    volume = VolumePlan("c", "files", dirs.volume("u1", "c"), files=CONTENT)
    files.make(plan(dirs, volume), dirs)
    try:
        for inside, found in [("a/b.conf", True), ("none", False)]:
            target = dirs.sub_path("u1", inside.replace("/", "-"), 0)
            part = SubPathPlan(0, volume.path, inside, target, generated=True)
            container = ContainerPlan("a", "i", "Never", cri.ContainerConfig(), sub_paths=(part,))
            if found:
                bind_sub_paths(container)
                assert Path(target).read_bytes() == b"one"
            else:
                with pytest.raises(PodFailure, match=r"subPath none of .*: No such file"):
                    bind_sub_paths(container)
    finally:
        files.remove(dirs, "u1")


@pytest.mark.root
def test_a_part_that_is_made_may_be_written_by_whoever_may_write_the_volume(tmp_path: Path) -> None:
    dirs = Dirs(f"{tmp_path}/pods")
    volume = VolumePlan("e", "emptyDir", dirs.volume("u1", "e"), group=1234)
    files.make(plan(dirs, volume), dirs)
    try:
        part = SubPathPlan(0, volume.path, "x/y", dirs.sub_path("u1", "a", 0))
        bind_sub_paths(ContainerPlan("a", "i", "Never", cri.ContainerConfig(), sub_paths=(part,)))
        status = os.stat(f"{volume.path}/x/y")
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 0o2777)
    finally:
        files.remove(dirs, "u1")


@pytest.mark.root
def test_a_group_is_set_without_following_links_and_once_if_that_is_asked_for(tmp_path: Path) -> None:
    inside, outside = tmp_path / "v", tmp_path / "precious"
    (inside / "d").mkdir(parents=True)
    outside.write_text("")
    outside.chmod(0o600)
    (inside / "d/f").write_text("")
    (inside / "d/f").chmod(0o600)
    (inside / "link").symlink_to(outside)
    set_group(str(inside), 1234)
    assert (outside.stat().st_gid, stat.S_IMODE(outside.stat().st_mode)) == (0, 0o600)
    assert (inside / "link").lstat().st_gid == 1234
    assert stat.S_IMODE((inside / "d/f").stat().st_mode) == 0o660
    assert stat.S_IMODE((inside / "d").stat().st_mode) & 0o2770 == 0o2770
    (inside / "d/f").chmod(0o600)
    set_group(str(inside), 1234, always=False)
    assert stat.S_IMODE((inside / "d/f").stat().st_mode) == 0o600, "the root was right"


def test_hosts_are_written_into_the_same_file_again(tmp_path: Path) -> None:
    hosts = HostsPlan(f"{tmp_path}/hosts", ("web",), ())
    files.write_hosts(hosts, ["10.0.0.1"])
    inode = os.stat(hosts.path).st_ino
    files.write_hosts(hosts, ["10.0.0.2"])
    assert os.stat(hosts.path).st_ino == inode
    assert Path(hosts.path).read_text().endswith("10.0.0.2\tweb\n")
