"""What the runtime could not do for the request's sake is told as a field of it, the rest as the host's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crib.backends.pods.updates import refused_field
from crib.backends.runtime_words import create_failure
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
        ("write file `cpuset.cpus`: Numerical result out of range", "cpuset_cpus"),
        ("write to `memory.weird`: Invalid argument", "unified['memory.weird']"),
        ("open `hugetlb.3MB.max`: No such file or directory", "hugepage_limits"),
        (f'{RUNC}failed to write "7": write {GROUP}/cpu.cfs_quota_us: invalid argument', "cpu_quota"),
        (f"{RUNC}openat2 {GROUP}/x: open {GROUP}/cpuset.cpus: permission denied", "cpuset_cpus"),
        (
            "OOM: the memory limit could be too low: read from sync socket: Connection reset by peer",
            "memory_limit_in_bytes",
        ),
        ("container init was OOM-killed (memory limit too low?)", "memory_limit_in_bytes"),
        (
            f"{RUNC}unable to set memory limit to 65536 (current usage: 1417216, peak usage: 1536000)",
            "memory_limit_in_bytes",
        ),
    ],
)
def test_a_create_that_the_kernel_refused_for_a_limit_names_it(words: str, field: str) -> None:
    error = create_failure("create of container c", words)
    assert isinstance(error, InvalidRequest)
    assert error.field == f"linux.resources.{field}"
    assert words in str(error)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("mount `/h/file` to `bin`: Not a directory", "mounts"),
        ("mkdir `/m/x`: Not a directory", "mounts"),
        ("failed open()ing /dev/null: No such file or directory", "mounts"),
        ("mknod `/bin/busybox/x`: Not a directory", "devices"),
        ("open executable: Operation not permitted", "command"),
        ("the path `/etc` is not a regular file: Operation not permitted", "command"),
        ("the path `/etc/passwd` exists but it is not executable: Operation not permitted", "command"),
        ("mknodat `/bin/busybox/x`: Not a directory", "devices"),
        ("executable file `a\nb` not found in $PATH: No such file or directory", "command"),
        ("executable file `x` not found: No such file or directory", "command"),
        ("chdir `/proc/nox`: No such file or directory", "working_dir"),
        ("open `bin/busybox/x`: Not a directory", "linux.security_context"),
        (
            "conmon ended without an answer: [conmon:e]: Failed to open log file Is a directory",
            "log_path",
        ),
        (f'{RUNC}exec: "x": executable file not found in $PATH', "command"),
        (f'{RUNC}exec: "/bin": is a directory', "command"),
        (f'{RUNC}error mounting "/h" to rootfs at "/bin": create mount: not a directory', "mounts"),
        (
            f'{RUNC}chdir to cwd ("/dev/null") set in config.json failed: not a directory',
            "working_dir",
        ),
    ],
)
def test_a_create_that_failed_at_a_place_or_program_of_the_request_names_it(words: str, field: str) -> None:
    error = create_failure("create of container c", words)
    assert isinstance(error, InvalidRequest)
    assert error.field == field


@pytest.mark.parametrize(
    "words",
    [
        "writing file `cpuset.cpus`: Input/output error",
        "open `/sys/fs/cgroup/x`: No such file or directory",
        "mount `overlay` to `/x`: Input/output error",
        "mount `/run/crib/sandboxes/p/etc/hosts` to `etc/hosts`: No such file or directory",
        "mount `tmpfs` to `dev`: Cannot allocate memory",
        "it said nothing",
    ],
)
def test_any_other_failure_is_the_hosts(words: str) -> None:
    assert isinstance(create_failure("create of container c", words), Broken)


def test_an_update_is_to_blame_only_while_its_cgroup_is_there(tmp_path: Path) -> None:
    def error(number: int, path: Path) -> OSError:
        return OSError(number, os.strerror(number), str(path))

    assert refused_field(error(errno.EINVAL, tmp_path / "cpu.max")) == "cpu_quota"
    assert refused_field(error(errno.ENOENT, tmp_path / "hugetlb.3MB.max")) == "hugepage_limits"
    assert refused_field(error(errno.EIO, tmp_path / "cpu.max")) == ""
    assert refused_field(error(errno.ENOENT, tmp_path / "gone" / "cpu.max")) == ""
