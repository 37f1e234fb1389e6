"""Limits changed together, on trees of files that refuse as a kernel does."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from crib.host.cgroup_limits import parse_list, write_limits
from crib.host.cgroups import CgroupLayout, Cgroups

PATH = "/pod/box"


class Kernel(Cgroups):
    """Files, and the rules of cgroup v1 for those that depend on each other."""

    def __init__(self, layout: CgroupLayout) -> None:
        super().__init__(layout)
        self.written: list[tuple[str, str]] = []
        self.busy = ""

    def write(self, path: str, key: str, value: str) -> None:
        if key == self.busy:
            raise OSError(errno.EBUSY, "in use", f"{path}/{key}")
        limit, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
        if key == limit and int(value) > int(self.read(path, both)):
            raise OSError(errno.EINVAL, "above the limit with swap", f"{path}/{key}")
        if key == both and int(value) < int(self.read(path, limit)):
            raise OSError(errno.EINVAL, "below the limit", f"{path}/{key}")
        if key.startswith("cpuset."):
            self._check_sets(path, key, value)
        Path(self._file(path, key)).write_text(value)
        self.written.append((f"{path}/{key}", value))

    def _check_sets(self, path: str, key: str, value: str) -> None:
        wanted = parse_list(value)
        directory = Path(self.directory(path, "cpuset"))
        if not wanted <= parse_list((directory.parent / key).read_text().strip()):
            raise OSError(errno.EACCES, "not in the parent's", f"{path}/{key}")
        for child in directory.iterdir():
            if child.is_dir() and not parse_list((child / key).read_text().strip()) <= wanted:
                raise OSError(errno.EBUSY, "a child has more", f"{path}/{key}")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    controllers = {name: str(tmp_path / name) for name in ("cpu", "cpuset", "memory")}
    made = Kernel(CgroupLayout("v1", controllers, None, frozenset()))
    for name, files in {
        "cpu": {"cpu.shares": "1024"},
        "cpuset": {"cpuset.cpus": "0-3"},
        "memory": {"memory.limit_in_bytes": "100", "memory.memsw.limit_in_bytes": "100"},
    }.items():
        for directory in (tmp_path / name / "pod", tmp_path / name / "pod/box"):
            directory.mkdir(parents=True)
            for key, value in files.items():
                (directory / key).write_text(f"{value}\n")
    return made


def content(kernel: Kernel, *keys: str) -> list[str]:
    return [kernel.read(PATH, key).strip() for key in keys]


@pytest.mark.parametrize("both", ["50", "100", "200"])
def test_memory_and_swap_are_changed_in_the_order_that_the_kernel_takes(kernel: Kernel, both: str) -> None:
    for files in (
        (("memory.limit_in_bytes", both), ("memory.memsw.limit_in_bytes", both)),
        (("memory.memsw.limit_in_bytes", "100"), ("memory.limit_in_bytes", "100")),
    ):
        write_limits(kernel, PATH, files)
        assert content(kernel, *(key for key, _ in files)) == [value for _, value in files]


def test_when_one_is_refused_the_others_have_their_old_values_again(kernel: Kernel) -> None:
    kernel.busy = "cpuset.cpus"
    with pytest.raises(OSError, match="in use") as caught:
        write_limits(
            kernel,
            PATH,
            (
                ("cpu.shares", "2"),
                ("memory.limit_in_bytes", "300"),
                ("memory.memsw.limit_in_bytes", "300"),
                ("cpuset.cpus", "0"),
            ),
        )
    assert caught.value.errno == errno.EBUSY
    keys = ("cpu.shares", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpuset.cpus")
    assert content(kernel, *keys) == ["1024", "100", "100", "0-3"]


def test_a_pair_that_never_fits_is_refused(kernel: Kernel) -> None:
    with pytest.raises(OSError, match="limit"):
        write_limits(kernel, PATH, (("memory.limit_in_bytes", "300"), ("memory.memsw.limit_in_bytes", "200")))
    assert content(kernel, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes") == ["100", "100"]


def test_a_file_that_is_not_there_is_named(kernel: Kernel) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_limits(kernel, PATH, (("cpu.shares", "2"), ("memory.nothing", "1")))
    assert "memory.nothing" in str(caught.value.filename)
    assert content(kernel, "cpu.shares") == ["1024"]


def test_the_cpus_of_groups_below_follow(kernel: Kernel, tmp_path: Path) -> None:
    for name, cpus in (("exec-1", "0-3"), ("exec-2", "3")):
        (tmp_path / "cpuset/pod/box" / name).mkdir()
        (tmp_path / "cpuset/pod/box" / name / "cpuset.cpus").write_text(f"{cpus}\n")
    write_limits(kernel, PATH, (("cpuset.cpus", "0-1"),))
    assert content(kernel, "cpuset.cpus") == ["0-1"]
    below = [
        (tmp_path / "cpuset/pod/box" / name / "cpuset.cpus").read_text() for name in ("exec-1", "exec-2")
    ]
    assert below == ["0,1", "0-1"]


@pytest.mark.parametrize("text", ["a", "1-0", "-1", "0-99999999"])
def test_a_list_of_cpus_must_be_one(text: str) -> None:
    with pytest.raises(OSError, match="not a list"):
        parse_list(text)


def test_a_list_of_cpus_is_read_as_the_kernel_writes_it() -> None:
    assert parse_list("0-2,5") == {0, 1, 2, 5}
    assert parse_list("") == set()
