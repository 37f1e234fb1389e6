"""The numbers of system calls are the kernel's, as far as its headers are here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crib.host import seccomp

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
GENERIC_NAMES = {"newfstatat": "fstatat"}
TABLES = (seccomp._COMMON, seccomp._NETWORK, seccomp._TREES, seccomp._JUDGED)


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not here")
    told = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text()))
    generic = GENERIC_NAMES if machine == "aarch64" else {}
    for table in TABLES:
        for name, number in seccomp._numbers(table, machine).items():
            # Headers that are older than a call do not have it.
            assert told.get(generic.get(name, name), str(number)) == str(number), name


def test_calls_of_one_machine_only_have_another_one_in_their_stead() -> None:
    for table in TABLES:
        x86, arm = (seccomp._numbers(table, machine) for machine in HEADERS)
        assert set(arm) <= set(x86)
    gone = {name for table in TABLES for name in seccomp._numbers(table, "x86_64")}
    gone -= {name for table in TABLES for name in seccomp._numbers(table, "aarch64")}
    newer = {"open": "openat", "poll": "ppoll", "select": "pselect6", "epoll_wait": "epoll_pwait"}
    newer |= {"stat": "newfstatat", "lstat": "newfstatat", "readlink": "readlinkat", "rename": "renameat"}
    newer |= {"unlink": "unlinkat", "dup2": "dup3", "pipe": "pipe2", "access": "faccessat"}
    newer |= {"mkdir": "mkdirat", "rmdir": "unlinkat", "link": "linkat", "symlink": "symlinkat"}
    newer |= {"mknod": "mknodat", "chmod": "fchmodat", "chown": "fchownat", "lchown": "fchownat"}
    newer |= {"time": "clock_gettime", "getpgrp": "getpgid"}
    assert gone == {*newer, "arch_prctl"}


def test_a_machine_without_a_column_has_no_numbers() -> None:
    assert seccomp._numbers(seccomp._COMMON, "riscv64") == {}
