"""Whole writes, and trees whose content is hostile."""

from __future__ import annotations

import errno
import gc
import os
import stat
from pathlib import Path

import pytest

from crib.host import files


def test_an_atomic_write_replaces_the_file_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    files.atomic_write(str(path), b"new", 0o600, sync=True)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_failed_atomic_write_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    (target / "child").mkdir(parents=True)
    with pytest.raises(OSError, match="write failed") as caught:
        files.atomic_write(str(target), b"x")
    assert caught.value.filename == str(target)
    assert os.listdir(tmp_path) == ["directory"]


def test_a_small_file_is_read_up_to_the_limit_whatever_it_says_of_its_size(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"x" * 200_000)
    assert len(files.read_small(str(path), 1 << 20)) == 200_000
    assert len(files.read_small(str(path), 70_000)) == 70_000
    assert int(files.read_small("/proc/self/stat", 4096).split()[0]) == os.getpid()
    with pytest.raises(FileNotFoundError):
        files.read_small(str(tmp_path / "none"))


def test_a_private_file_is_ours_alone_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    for data in (b"x" * 100, b"new"):
        files.write_private(str(path), data)
        assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_links_never_lead_out_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_bytes(b"inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_bytes(b"outside")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "climbing").symlink_to("../../../../etc/passwd")
    for name in ("etc/passwd", "/etc/passwd", "absolute", "climbing", "../etc/passwd"):
        assert files.read_in_root(str(root), name, 100) == b"inside"


@pytest.mark.parametrize("link", ["/proc/self/root/etc/passwd", "/proc/self/cwd/x"])
def test_a_link_into_the_hosts_proc_finds_nothing(tmp_path: Path, link: str) -> None:
    (tmp_path / "trap").symlink_to(link)
    with pytest.raises(FileNotFoundError):
        files.read_in_root(str(tmp_path), "trap", 100)


def test_magic_links_of_a_proc_inside_the_root_are_refused() -> None:
    with pytest.raises(OSError) as caught:
        files.read_in_root("/", "/proc/self/root/etc/hostname", 100)
    assert caught.value.errno == errno.ELOOP


def test_a_file_longer_than_the_limit_is_refused_and_one_as_long_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert files.read_in_root(str(tmp_path), "f", 5) == b"12345"
    with pytest.raises(OSError) as caught:
        files.read_in_root(str(tmp_path), "f", 4)
    assert caught.value.errno == errno.EFBIG


def test_a_pipe_in_place_of_a_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "passwd")
    with pytest.raises(OSError, match="not a regular file") as caught:
        files.read_in_root(str(tmp_path), "passwd", 5)
    assert caught.value.errno == errno.EINVAL


def test_directories_are_made_inside_the_root_through_its_links(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "run").mkdir(parents=True)
    (root / "var").mkdir()
    (root / "var" / "run").symlink_to("/run")
    root_fd = files.open_root(str(root))
    try:
        fd = files.make_dirs_in_root(root_fd, "/var/run/secrets/a", 0o700)
        assert os.path.samestat(os.fstat(fd), os.stat(root / "run" / "secrets" / "a"))
        os.close(fd)
        os.close(files.make_dirs_in_root(root_fd, "/var/run/secrets/a"))
    finally:
        os.close(root_fd)
    assert os.listdir(tmp_path) == ["root"]


def test_a_climbing_path_or_a_dangling_link_makes_no_directory(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("/nowhere")
    root_fd = files.open_root(str(tmp_path))
    gc.collect()  # what others left open goes now, not while it is counted
    before = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(OSError, match=r"'\.\.'"):
            files.make_dirs_in_root(root_fd, "new/../other")
        with pytest.raises(OSError) as caught:
            files.make_dirs_in_root(root_fd, "dangling/x")
        assert caught.value.errno in {errno.ELOOP, errno.ENOTDIR}
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(root_fd)
    assert os.listdir(tmp_path) == ["dangling"]


def test_removing_a_tree_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").touch()
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(tmp_path / "keep")
    os.mkfifo(tree / "a" / "fifo")
    (tree / "a" / "b" / "file").touch()
    files.remove_tree(str(tree))
    assert os.listdir(tmp_path) == ["keep"]
    assert os.listdir(tmp_path / "keep") == ["file"]
    files.remove_tree(str(tree))
    (tmp_path / "link").symlink_to(tmp_path / "keep")
    files.remove_tree(str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["keep"]


def test_a_tree_deeper_than_any_path_is_measured_and_removed(tmp_path: Path) -> None:
    tree = tmp_path / "deep"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("dd", dir_fd=fd)
        inner = os.open("dd", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert not files.disk_usage(str(tree)).complete
    files.remove_tree(str(tree))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["/", "", "a/..", ".", ".."])
def test_a_path_that_cannot_be_meant_is_not_removed(path: str) -> None:
    with pytest.raises(OSError, match="not a path that can be removed"):
        files.remove_tree(path)


def test_disk_usage_counts_blocks_and_inodes_and_a_hard_link_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"x" * 10000)
    os.link(tmp_path / "a", tmp_path / "sub" / "again")
    (tmp_path / "link").symlink_to("/")
    paths = [tmp_path, tmp_path / "sub", tmp_path / "a", tmp_path / "link"]
    expected = sum(path.lstat().st_blocks * 512 for path in paths)
    assert files.disk_usage(str(tmp_path)) == files.DiskUsage(expected, 4)
    assert files.disk_usage(str(tmp_path / "a")).inodes == 1
    assert files.disk_usage(str(tmp_path / "missing")) == files.DiskUsage(0, 0)
    assert not files.disk_usage(str(tmp_path), max_inodes=2).complete
