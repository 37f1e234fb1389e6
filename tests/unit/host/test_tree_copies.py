"""Copies of trees."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from crib.host.tree_copies import CopyBudget, CopyLimits, TooMuch, copy_tree
from tests.disks import mounted_disk

WIDE = CopyLimits(bytes=64 << 20, entries=100, seconds=600)


def copied(source: Path, target: Path, limits: CopyLimits = WIDE) -> None:
    copied_by(source, target, CopyBudget(limits))


def copied_by(source: Path, target: Path, budget: CopyBudget) -> None:
    target.mkdir()
    source_fd, target_fd = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target))
    try:
        copy_tree(source_fd, target_fd, budget)
    finally:
        os.close(source_fd)
        os.close(target_fd)


def test_content_modes_times_links_and_pipes_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "a"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(b"x" * 70_000)
    (source / "deep" / "file").chmod(0o6751)
    os.link(source / "deep" / "file", source / "same")
    (source / "link").symlink_to("/etc/passwd")
    (source / "dangling").symlink_to("no/where")
    os.mkfifo(source / "pipe", 0o622)
    (source / "deep" / "er").chmod(0o711)
    os.utime(source / "deep" / "file", ns=(1_000, 2_000))
    os.utime(source / "deep", ns=(3_000, 4_000))
    source.chmod(0o751)
    copied(source, target := tmp_path / "b")
    assert (target / "deep" / "file").read_bytes() == b"x" * 70_000
    status = (target / "deep" / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink) == (0o6751, 2_000, 2)
    assert (target / "same").samefile(target / "deep" / "file")
    assert os.readlink(target / "link") == "/etc/passwd"
    assert os.readlink(target / "dangling") == "no/where"
    assert stat.S_ISFIFO((target / "pipe").stat().st_mode)
    assert stat.S_IMODE((target / "deep" / "er").stat().st_mode) == 0o711
    assert stat.S_IMODE(target.stat().st_mode) == 0o751
    assert (target / "deep").stat().st_mtime_ns == 4_000


def test_user_attributes_are_kept_and_those_of_overlayfs_are_not(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.mkdir()
    (source / "f").touch()
    try:
        os.setxattr(source / "f", "user.note", b"1")
    except OSError:
        pytest.skip("this file system has no user attributes")
    copied(source, tmp_path / "b")
    assert os.getxattr(tmp_path / "b" / "f", "user.note") == b"1"


@pytest.mark.parametrize(
    ("limits", "words"), [(CopyLimits(10, 100, 600), "10 bytes"), (CopyLimits(1000, 2, 600), "2 files")]
)
def test_what_is_too_large_is_not_copied(tmp_path: Path, limits: CopyLimits, words: str) -> None:
    source = tmp_path / "a"
    source.mkdir()
    for number in range(3):
        (source / str(number)).write_bytes(b"12345")
    with pytest.raises(TooMuch, match=words):
        copied(source, tmp_path / "b", limits)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0", b"x", b"\0" * (3 << 20), b"x" + b"\0" * (3 << 20), b"\0" * (3 << 20) + b"x"),
        *((b"x" * 65536 + b"\0" * 65536) * 20, b"\0" * 65535 + b"x", b"x" * (1 << 20) + b"\0" * 70_000),
    ],
)
def test_files_with_zeros_are_copied_to_the_byte(tmp_path: Path, content: bytes) -> None:
    (source := tmp_path / "a").mkdir()
    (source / "file").write_bytes(content)
    copied(source, tmp_path / "b")
    assert (tmp_path / "b" / "file").read_bytes() == content


@pytest.mark.parametrize("written", [True, False])
def test_zeros_take_no_space_whether_the_source_has_holes_or_not(tmp_path: Path, written: bool) -> None:
    (source := tmp_path / "a").mkdir()
    with open(source / "file", "wb") as file:
        if written:
            file.write(bytes(32 << 20))
        file.truncate(32 << 20)
        file.seek(16 << 20)
        file.write(b"x")
    copied(source, tmp_path / "b")
    status = (tmp_path / "b" / "file").stat()
    assert status.st_size == 32 << 20
    assert status.st_blocks * 512 <= 128 << 10


def test_a_copy_ends_when_its_time_is_over_or_the_disk_fills(tmp_path: Path) -> None:
    (source := tmp_path / "a").mkdir()
    (source / "file").write_bytes(b"x")
    for number, (limits, words) in enumerate(
        ((CopyLimits(99, 99, seconds=-1), "takes longer"), (CopyLimits(99, 99, 600, 1 << 60), "must stay"))
    ):
        with pytest.raises(TooMuch, match=words):
            copied(source, tmp_path / f"b{number}", limits)


@pytest.mark.root
def test_files_of_a_copy_share_their_blocks_where_the_file_system_can(tmp_path: Path) -> None:
    with mounted_disk(tmp_path, "xfs") as disk:
        (disk / "a").mkdir()
        (disk / "a" / "file").write_bytes(os.urandom(8 << 20))
        os.sync()
        before = os.statvfs(disk).f_bfree
        copied(disk / "a", disk / "b")
        os.sync()
        assert (disk / "b" / "file").read_bytes() == (disk / "a" / "file").read_bytes()
        taken = (before - os.statvfs(disk).f_bfree) * os.statvfs(disk).f_frsize
        assert taken < 1 << 20


def test_a_copy_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    budget = CopyBudget(WIDE)
    budget.end()
    with pytest.raises(TooMuch, match="takes longer"):
        copied_by(tmp_path / "a", tmp_path / "b", budget)
