"""Files that stay open between readings: they tell what is new, and they do not become too many."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crib.host.cgroup_files import huge_page_sizes
from crib.host.cgroup_stats import For, StatsReader
from crib.host.cgroups import CgroupLayout
from crib.host.kept_descriptors import FD_SETSIZE
from crib.host.kept_files import MAX_TREE, SHARE, KeptFiles, OpenFiles

FILES = (
    *("cpuacct.usage", "cpuacct.stat", "cpu.stat", "memory.stat", "memory.usage_in_bytes"),
    *("memory.kmem.usage_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt", "memory.oom_control"),
    *("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    *("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
    *("pids.current", "pids.max"),
)


@pytest.fixture
def files() -> Iterator[OpenFiles]:
    made = OpenFiles(str)
    yield made
    made.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that were opened."""
    paths: list[str] = []
    real: Callable[..., int] = os.open

    def counting(path: str, *args: int, **kwargs: int) -> int:
        paths.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", counting)
    return paths


def cgroup(place: Path, *pids: int) -> Path:
    place.mkdir()
    (place / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return place


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_stays_open_leaves_low_numbers_to_others(files: OpenFiles, tmp_path: Path) -> None:
    place = cgroup(tmp_path / "pod", 1)
    (place / "cpu.stat").write_text("usage_usec 1\n")
    files.contents((str(place / "cpu.stat"),))
    files.processes(str(place))
    kept = [*files._figures.values(), *(fd for own in files._tree for fd in (own[0], own[2]))]
    assert len(kept) == 3
    assert min(kept) >= FD_SETSIZE
    assert os.get_inheritable(kept[0]) is False


def test_a_second_reading_opens_nothing_and_tells_what_is_new(tmp_path: Path, opened: list[str]) -> None:
    for tree, name, text in (
        ("cpuacct", "cpuacct.usage", "1\n"),
        ("memory", "memory.stat", "total_rss 1\n"),
        ("memory", "memory.usage_in_bytes", "1\n"),
        ("memory", "memory.limit_in_bytes", "9\n"),
        ("memory", "memory.memsw.limit_in_bytes", "10\n"),
        ("pids", "cgroup.procs", "5\n"),
    ):
        (tmp_path / tree / "pod").mkdir(parents=True, exist_ok=True)
        (tmp_path / tree / "pod" / name).write_text(text)
    trees = {name: str(tmp_path / name) for name in ("cpuacct", "memory", "pids")}
    reader = StatsReader(CgroupLayout("v1", trees, None, frozenset()))
    reader.read("/pod", processes=True)
    opened.clear()
    (tmp_path / "cpuacct/pod/cpuacct.usage").write_text("2\n")
    (tmp_path / "pids/pod/cgroup.procs").write_text("5\n6\n")
    stats = reader.read("/pod", processes=True)
    assert stats.cpu is not None
    assert (stats.cpu.usage, stats.processes) == (2, (5, 6))
    assert opened == []
    assert not reader.close_old(0.0)


@pytest.mark.parametrize("use", [For.POD_METRICS, For.METRICS])
def test_a_second_reading_for_metrics_opens_nothing_that_is_there(
    tmp_path: Path, opened: list[str], use: For
) -> None:
    files = (*FILES, *(f"hugetlb.{size}.max_usage_in_bytes" for size in huge_page_sizes()))
    trees = {name: str(tmp_path / name) for name in {file.partition(".")[0] for file in files}}
    for file in files:
        place = tmp_path / file.partition(".")[0] / "pod"
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_text("0\n")
    reader = StatsReader(CgroupLayout("v1", trees, None, frozenset()))
    first = reader.read("/pod", use)
    assert opened, "they are there"
    opened.clear()
    assert reader.read("/pod", use) == first
    assert opened == []
    (tmp_path / "memory/pod/memory.failcnt").unlink()
    assert reader.read("/pod") != first
    assert opened, "what statistics alone need"
    opened.clear()
    assert reader.read("/pod", use) == first, "files of one cgroup are shared by all questions"
    assert opened == []
    assert not reader.close_old(0.0)


def test_what_is_not_there_is_looked_for_again_and_the_rest_is_not_opened(
    tmp_path: Path, files: OpenFiles, opened: list[str]
) -> None:
    there, later = str(tmp_path / "there"), str(tmp_path / "later")
    Path(there).write_text("1\n")
    assert files.contents((there, later)) == {there: b"1\n"}
    opened.clear()
    assert files.contents((there, later)) == {there: b"1\n"}
    assert opened == [later]
    Path(later).write_text("2\n")
    assert files.contents((there, later)) == {there: b"1\n", later: b"2\n"}
    opened.clear()
    assert files.contents((there, later)) == {there: b"1\n", later: b"2\n"}
    assert opened == []


def test_files_of_another_cgroup_of_the_same_name_are_opened_anew(
    tmp_path: Path, files: OpenFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    for path in (one, two):
        Path(path).write_text("old\n")
    files.contents((one, two))
    gone = {os.stat(path).st_ino for path in (one, two)}
    real = os.pread

    def as_the_kernel_does(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino in gone:
            raise OSError(19, "No such device")
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", as_the_kernel_does)
    assert files.contents((one, two)) == {}
    assert len(files) == 0
    os.rename(one, f"{one}.old")  # or its inode may be used again
    Path(one).write_text("new\n")
    assert files.contents((one, two)) == {one: b"new\n"}


def test_no_more_files_stay_open_than_a_share_of_what_the_process_may_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * SHARE, 1 << 20))
    kept, before = KeptFiles(), descriptors()
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("7\n")
        files = kept.take(name) or OpenFiles(str)
        files.content(str(tmp_path / name))
        kept.put_back(name, files)
    assert descriptors() == before + 2
    assert not kept.close_old(0.0)
    assert descriptors() == before


def test_processes_of_cgroups_that_come_and_go_below_are_seen(tmp_path: Path, files: OpenFiles) -> None:
    pod = cgroup(tmp_path / "pod", 1)
    first = cgroup(pod / "first", 2)
    assert files.processes(str(pod)) == {1, 2}
    second = cgroup(first / "second", 3)
    assert files.processes(str(pod)) == {1, 2, 3}
    assert files.processes(str(pod)) == {1, 2, 3}
    for place in (second, first):
        (place / "cgroup.procs").unlink()
        place.rmdir()
    assert files.processes(str(pod)) == {1}
    (pod / "cgroup.procs").unlink()
    pod.rmdir()
    files.close()
    assert files.processes(str(pod)) is None


def test_one_more_beside_another_that_went_meanwhile_is_seen(
    tmp_path: Path, files: OpenFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number is the same; but the file of one that was removed can be read no more."""
    pod = cgroup(tmp_path / "pod")
    old = cgroup(pod / "old", 2)
    assert files.processes(str(pod)) == {2}
    gone = (old / "cgroup.procs").stat().st_ino
    (old / "cgroup.procs").unlink()
    old.rmdir()
    cgroup(pod / "new", 3)
    real = os.pread

    def as_the_kernel_does(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == gone:
            raise OSError(19, "No such device")
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", as_the_kernel_does)
    assert files.processes(str(pod)) == {3}


def test_a_tree_of_many_cgroups_is_read_but_not_kept_open(tmp_path: Path, files: OpenFiles) -> None:
    pod = cgroup(tmp_path / "pod", 1000)
    for number in range(MAX_TREE):
        cgroup(pod / str(number), number)
    before = descriptors()
    assert files.processes(str(pod)) == {1000, *range(MAX_TREE)}
    assert descriptors() == before


def test_those_that_are_too_many_or_read_by_another_thread_are_closed_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("7\n")
    before = descriptors()
    kept = KeptFiles(most=1)

    def read(name: str) -> OpenFiles:
        files = kept.take(name) or OpenFiles(str)
        assert files.content(str(tmp_path / "file")) == b"7\n"
        return files

    first, another = read("a"), read("a")
    kept.put_back("a", first)
    kept.put_back("a", another)
    kept.put_back("b", read("b"))
    assert descriptors() == before + 1
    assert kept.take("a") is first
    kept.put_back("a", first)
    assert kept.close_old(3600.0), "it was read just now"
    assert not kept.close_old(0.0)
    assert descriptors() == before
