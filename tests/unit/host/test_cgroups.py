"""Cgroups on trees of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crib.host.cgroups import CgroupLayout, Cgroups, detect_layout, expand_slice


def _mountinfo(path: Path, *lines: str) -> str:
    file = path / "mountinfo"
    file.write_text("".join(f"{30 + n} 1 0:{n} / {line}\n" for n, line in enumerate(lines)))
    return str(file)


def test_a_hybrid_layout_is_told_from_the_mount_table(tmp_path: Path) -> None:
    layout = detect_layout(
        _mountinfo(
            tmp_path,
            "/c/cpu rw - cgroup cgroup rw,cpu,cpuacct",
            "/c/memory rw - cgroup cgroup rw,memory",
            "/c/systemd rw - cgroup cgroup rw,name=systemd",
            "/c/unified rw - cgroup2 cgroup2 rw",
        )
    )
    assert layout.mode == "hybrid"
    assert layout.trees == ("/c/cpu", "/c/memory", "/c/systemd", "/c/unified")
    assert layout.controllers["cpuacct"] == layout.controllers["cpu"] == "/c/cpu"


def test_a_v2_layout_knows_its_controllers(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    layout = detect_layout(_mountinfo(tmp_path, f"{tmp_path} rw - cgroup2 cgroup2 rw,nsdelegate"))
    assert layout.mode == "v2"
    assert layout.unified_controllers == {"cpu", "memory", "pids"}
    cgroups = Cgroups(layout)
    assert cgroups.directory("/a", "memory") == f"{tmp_path}/a"
    with pytest.raises(KeyError):
        cgroups.directory("/a", "hugetlb")


def test_v1_without_v2_and_nothing_at_all(tmp_path: Path) -> None:
    assert detect_layout(_mountinfo(tmp_path, "/c/m rw - cgroup cgroup rw,memory")).mode == "v1"
    with pytest.raises(FileNotFoundError, match="no cgroup file system"):
        detect_layout(_mountinfo(tmp_path, "/proc rw - proc proc rw"))


@pytest.fixture
def v1(tmp_path: Path) -> Cgroups:
    for name in ("cpuset", "memory", "pids"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-3\n")
    (tmp_path / "cpuset" / "cpuset.mems").write_text("0\n")
    controllers = {name: str(tmp_path / name) for name in ("cpuset", "memory", "pids")}
    return Cgroups(CgroupLayout("v1", controllers, None, frozenset()))


def test_a_v1_cgroup_is_made_in_every_tree_and_its_cpuset_filled(v1: Cgroups, tmp_path: Path) -> None:
    for part in ("a", "a/b"):
        (tmp_path / "cpuset" / part).mkdir()
        (tmp_path / "cpuset" / part / "cpuset.cpus").touch()
        (tmp_path / "cpuset" / part / "cpuset.mems").write_text("1")
    v1.create("/a/b")
    v1.create("/a/b")
    assert all(os.path.isdir(directory) for directory in v1.directories("/a/b"))
    assert v1.read("/a/b", "cpuset.cpus") == "0-3"
    assert v1.read("/a/b", "cpuset.mems") == "1"
    assert v1.exists("/a/b")
    assert not v1.exists("/a/c")


def test_a_v1_cpuset_of_a_parent_that_is_not_ready_is_filled_from_above(v1: Cgroups, tmp_path: Path) -> None:
    for part in ("a", "a/b"):
        (tmp_path / "cpuset" / part).mkdir()
        for key in ("cpuset.cpus", "cpuset.mems"):
            (tmp_path / "cpuset" / part / key).touch()
    v1.create("/a/b")
    assert [v1.read(path, "cpuset.cpus") for path in ("/a", "/a/b")] == ["0-3", "0-3"]


def test_v1_keys_are_found_by_their_controller(v1: Cgroups, tmp_path: Path) -> None:
    (tmp_path / "memory" / "a").mkdir()
    (tmp_path / "memory" / "a" / "memory.limit_in_bytes").touch()
    v1.write("/a", "memory.limit_in_bytes", "4096")
    assert (tmp_path / "memory" / "a" / "memory.limit_in_bytes").read_text() == "4096"
    with pytest.raises(FileNotFoundError):
        v1.read("/a", "memory.unknown")
    with pytest.raises(FileNotFoundError, match="no hierarchy"):
        v1.read("/a", "blkio.weight")
    with pytest.raises(ValueError, match="cgroup file"):
        v1.read("/a", "../x")


def test_pids_are_gathered_below_and_foreign_ones_left_out(v1: Cgroups, tmp_path: Path) -> None:
    (tmp_path / "pids" / "a" / "b").mkdir(parents=True)
    (tmp_path / "pids" / "a" / "cgroup.procs").write_text("11\n0\n12\n")
    (tmp_path / "pids" / "a" / "b" / "cgroup.procs").write_text("13\n")
    assert sorted(v1.pids("/a")) == [11, 12, 13]
    assert v1.pids("/missing") == []


def test_v2_parents_hand_down_each_controller(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    cgroups = Cgroups(CgroupLayout("v2", {}, str(tmp_path), frozenset({"cpu", "memory"})))
    cgroups.create("/a/b")
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "cgroup.subtree_control").read_text().startswith("+memory")


@pytest.mark.parametrize("there", [(".",), (".", "a", "a/b")], ids=["parents are made", "they are there"])
def test_v2_a_parent_with_processes_hands_nothing_down(tmp_path: Path, there: tuple[str, ...]) -> None:
    for name in there:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cgroup.controllers").write_text("cpu\n")
        (tmp_path / name / "cgroup.subtree_control").write_text("\n")
    cgroups = Cgroups(CgroupLayout("v2", {}, str(tmp_path), frozenset({"cpu"})))
    cgroups.create("/a/b/exec", among_processes=True)
    handed = [(tmp_path / name / "cgroup.subtree_control").read_text() for name in there]
    assert handed == (["\n"] * 3 if "a/b" in there else ["+cpu"])
    assert not (tmp_path / "a/b/exec/cgroup.subtree_control").exists()
    assert cgroups.below("/a/b") == ["exec"]


def test_what_is_below_is_found_half_made_and_half_removed(v1: Cgroups, tmp_path: Path) -> None:
    for tree in v1.layout.trees:
        (tmp_path / tree / "a").mkdir()
    (tmp_path / v1.layout.trees[0] / "a/half-made").mkdir()
    (tmp_path / v1.layout.trees[-1] / "a/half-removed").mkdir()
    assert v1.below("/a") == ["half-made", "half-removed"]
    assert v1.below("/missing") == []


async def test_what_is_usual_costs_one_call_for_each_tree(
    v1: Cgroups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making one whose parents are there, and removing one that has nothing below it."""
    v1.create("/a")
    made: list[str] = []
    mkdir = os.mkdir

    def noted(path: str, mode: int = 0o777) -> None:
        made.append(path)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", noted)
    v1.create("/a/b")
    assert sorted(made) == [f"{tmp_path}/{name}/a/b" for name in ("cpuset", "memory", "pids")]
    monkeypatch.setattr(os, "scandir", lambda _: pytest.fail("it looks below"))
    await v1.remove("/a/b")
    assert not v1.exists("/a/b")


async def test_a_tree_is_removed_from_the_inside(v1: Cgroups) -> None:
    v1.create("/a/b/c")
    v1.create("/a/d")
    await v1.remove("/a")
    assert not v1.exists("/a")


async def test_removing_and_killing_what_is_not_there_is_fine(v1: Cgroups) -> None:
    assert await v1.kill("/missing")
    await v1.remove("/missing")


@pytest.mark.parametrize("path", ["", "/", "a", "/a/../b", "/a//b", "/a/", "/./a", "/a\0"])
async def test_the_root_and_paths_that_climb_are_refused(v1: Cgroups, path: str) -> None:
    for call in (v1.create, v1.pids, v1.exists, v1.directories):
        with pytest.raises(ValueError, match="not an absolute path"):
            call(path)
    with pytest.raises(ValueError, match="not an absolute path"):
        await v1.kill(path)
    with pytest.raises(ValueError, match="not an absolute path"):
        await v1.remove(path)


def test_slices_lie_inside_each_other() -> None:
    assert expand_slice("kubepods.slice") == "/kubepods.slice"
    expected = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice"
    assert expand_slice("kubepods-besteffort-pod1_2.slice") == expected
    assert expand_slice("-.slice") == "/"
    for name in ("x", ".slice", "a--b.slice", "-a.slice", "a/b.slice"):
        with pytest.raises(ValueError, match="slice"):
            expand_slice(name)


def test_the_own_path_is_read_from_proc() -> None:
    layout = CgroupLayout("v2", {}, "/sys/fs/cgroup", frozenset())
    with pytest.raises(FileNotFoundError, match="no hierarchy for the controller 'nonsense'"):
        Cgroups(layout).own_path("nonsense")
