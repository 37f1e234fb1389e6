"""The option favordynmods of the cgroup v2 tree. This machine's is left alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import libc
from crib.host.cgroup_options import favour_changes, options_of
from crib.host.cgroups import detect_layout
from crib.host.mount_table import read_mounts
from crib.host.mounts import Tmpfs, perform, unmount


def mountinfo(tmp_path: Path, options: str) -> str:
    """With a tree at `tmp_path`, which is a directory and no cgroup tree."""
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / {tmp_path} rw,nosuid - cgroup2 cgroup2 {options}\n")
    return str(table)


def test_a_layout_says_whether_changes_are_favoured(tmp_path: Path) -> None:
    assert not detect_layout(mountinfo(tmp_path, "rw,nsdelegate")).favours_changes
    found = detect_layout(mountinfo(tmp_path, "rw,nsdelegate,favordynmods"))
    assert (found.favours_changes, found.delegates) == (True, True)


def test_a_tree_that_has_the_option_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "fspick", lambda _: pytest.fail("it is picked"))
    favour_changes(str(tmp_path), mountinfo(tmp_path, "rw,favordynmods"))


def test_an_option_that_would_be_lost_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "fspick", lambda _: pytest.fail("it is picked"))
    with pytest.raises(OSError, match="has the option of_tomorrow, which would be lost") as caught:
        favour_changes(str(tmp_path), mountinfo(tmp_path, "rw,nsdelegate,of_tomorrow"))
    assert caught.value.errno == errno.EOPNOTSUPP


def test_all_options_are_named_again_and_one_that_had_no_effect_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    monkeypatch.setattr(libc, "fspick", lambda path: os.open(path, os.O_PATH))
    monkeypatch.setattr(libc, "fsconfig_flag", lambda _, option: named.append(option))
    monkeypatch.setattr(libc, "fsconfig_reconfigure", lambda _: named.append("reconfigured"))
    with pytest.raises(OSError, match="from this cgroup namespace nobody can set favordynmods"):
        favour_changes(str(tmp_path), mountinfo(tmp_path, "rw,nsdelegate,memory_recursiveprot"))
    assert named == ["favordynmods", "memory_recursiveprot", "nsdelegate", "reconfigured"]


def test_without_a_tree_there_are_no_options(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no cgroup v2 tree is mounted") as caught:
        options_of(f"{tmp_path}/other", mountinfo(tmp_path, "rw"))
    assert caught.value.errno == errno.ENODEV


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "tmpfs")
    os.mkdir(path)
    perform(Tmpfs(path, 1 << 20))
    yield path
    unmount(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_superblock_is_reconfigured_and_an_unknown_option_refused(tmpfs: str) -> None:
    def options() -> frozenset[str]:
        return next(entry.super_options for entry in read_mounts() if entry.path == tmpfs)

    before = options()
    context = libc.fspick(tmpfs)
    try:
        libc.fsconfig_flag(context, "ro")
        libc.fsconfig_reconfigure(context)
    finally:
        os.close(context)
    assert options() == before - {"rw"} | {"ro"}
    context = libc.fspick(tmpfs)
    try:
        with pytest.raises(OSError, match="favordynmods") as caught:
            libc.fsconfig_flag(context, "favordynmods")
    finally:
        os.close(context)
    assert caught.value.errno == errno.EINVAL
