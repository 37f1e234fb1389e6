"""Limits that only the kernel knows to be impossible are the caller's, whoever wrote them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crib.backends.oci.refused_limits import create_failure, refused_field
from crib.model.errors import Broken, InvalidRequest

GROUP = "/sys/fs/cgroup/cpuset/crib/p/c"
RUNC = "runc create failed: unable to start container process: unable to apply cgroup configuration: "


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("writing file `cpuset.cpus`: Numerical result out of range", "cpuset_cpus"),
        ("writing file `cpuset.mems`: Invalid argument", "cpuset_mems"),
        ("writing file `memory.memsw.limit_in_bytes`: Invalid argument", "memory_swap_limit_in_bytes"),
        (
            "opening file `hugetlb.3MB.limit_in_bytes` for writing: No such file or directory",
            "hugepage_limits",
        ),
        ("writing file `memory.weird`: Invalid argument", "unified['memory.weird']"),
        (f'{RUNC}failed to write "7": write {GROUP}/cpu.cfs_quota_us: invalid argument', "cpu_quota"),
        (f"{RUNC}openat2 {GROUP}/x: open {GROUP}/cpuset.cpus: permission denied", "cpuset_cpus"),
        (
            "OOM: the memory limit could be too low: read from sync socket: Connection reset by peer",
            "memory_limit_in_bytes",
        ),
        ("container init was OOM-killed (memory limit too low?)", "memory_limit_in_bytes"),
    ],
)
def test_a_create_that_the_kernel_refused_for_a_limit_names_it(words: str, field: str) -> None:
    error = create_failure("create of container c", words)
    assert isinstance(error, InvalidRequest)
    assert error.field == f"config.linux.resources.{field}"
    assert words in str(error)


@pytest.mark.parametrize(
    "words",
    [
        "writing file `cpuset.cpus`: Input/output error",
        "open `/sys/fs/cgroup/x`: No such file or directory",
        "executable file `sleep` not found in $PATH: No such file or directory",
        "it said nothing",
    ],
)
def test_any_other_failure_is_the_hosts(words: str) -> None:
    assert isinstance(create_failure("create of container c", words), Broken)


def test_an_update_is_to_blame_only_while_its_cgroup_is_there(tmp_path: Path) -> None:
    def error(number: int, path: Path) -> OSError:
        return OSError(number, os.strerror(number), str(path))

    assert refused_field(error(errno.EINVAL, tmp_path / "cpu.max"), "linux") == "linux.cpu_quota"
    assert (
        refused_field(error(errno.ENOENT, tmp_path / "hugetlb.3MB.max"), "linux") == "linux.hugepage_limits"
    )
    assert refused_field(error(errno.EIO, tmp_path / "cpu.max"), "linux") == ""
    assert refused_field(error(errno.ENOENT, tmp_path / "gone" / "cpu.max"), "linux") == ""
