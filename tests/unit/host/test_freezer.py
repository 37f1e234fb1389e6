"""The freezer of both kinds of cgroup, on trees of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.host.cgroups import CgroupLayout
from crib.host.freezer import Freezer


def group(tree: Path, **files: str) -> None:
    (tree / "a").mkdir(parents=True)
    for name, content in files.items():
        (tree / "a" / name.replace("__", ".")).write_text(content)


def test_v1_says_its_state_in_one_file(tmp_path: Path) -> None:
    freezer = Freezer(CgroupLayout("v1", {"freezer": str(tmp_path)}, None, frozenset()))
    group(tmp_path, freezer__state="THAWED\n")
    assert not freezer.is_frozen("/a")
    for state in ("FROZEN\n", "FREEZING\n"):
        (tmp_path / "a" / "freezer.state").write_text(state)
        assert freezer.is_frozen("/a")
    assert freezer.thaw("/a")
    assert (tmp_path / "a" / "freezer.state").read_text() == "THAWED"


def test_v2_has_a_wish_and_what_came_of_it(tmp_path: Path) -> None:
    freezer = Freezer(CgroupLayout("v2", {}, str(tmp_path), frozenset()))
    group(tmp_path, cgroup__freeze="0\n", cgroup__events="populated 1\nfrozen 0\n")
    assert not freezer.is_frozen("/a")
    (tmp_path / "a" / "cgroup.freeze").write_text("1\n")
    assert freezer.is_frozen("/a")
    assert freezer.thaw("/a")
    (tmp_path / "a" / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert freezer.is_frozen("/a")
    assert not freezer.thaw("/a"), "a group above it is frozen"


def test_a_group_that_is_gone_is_not_frozen(tmp_path: Path) -> None:
    for layout in (
        CgroupLayout("v1", {"freezer": str(tmp_path)}, None, frozenset()),
        CgroupLayout("v2", {}, str(tmp_path), frozenset()),
        CgroupLayout("v1", {}, None, frozenset()),
    ):
        assert not Freezer(layout).is_frozen("/gone")
        assert Freezer(layout).thaw("/gone")
    assert list(tmp_path.iterdir()) == []


def test_freezing_waits_until_all_have_stopped_and_says_when_they_do_not(tmp_path: Path) -> None:
    v1 = Freezer(CgroupLayout("v1", {"freezer": str(tmp_path)}, None, frozenset()))
    group(tmp_path, freezer__state="THAWED\n", cgroup__events="frozen 1\n", cgroup__freeze="0\n")
    v1.freeze("/a", 10)
    assert (tmp_path / "a" / "freezer.state").read_text() == "FROZEN"
    v2 = Freezer(CgroupLayout("v2", {}, str(tmp_path), frozenset()))
    v2.freeze("/a", 10)
    assert (tmp_path / "a" / "cgroup.freeze").read_text() == "1"
    (tmp_path / "a" / "cgroup.events").write_text("frozen 0\n")
    with pytest.raises(TimeoutError, match="not all processes stopped"):
        v2.freeze("/a", 0)
