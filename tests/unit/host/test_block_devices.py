"""Names of devices, and what a file system tells of itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crib.host.block_devices import device_name, filesystem_stats

NO_MAJOR = 4095


def test_a_device_has_the_name_of_its_node_in_dev() -> None:
    listed = os.listdir("/sys/dev/block")
    for number in listed[:50]:
        major, minor = map(int, number.split(":"))
        name = device_name(major, minor)
        assert name.startswith("/dev/")
        assert "!" not in name
    assert listed


def test_a_device_that_sysfs_does_not_know_is_named_by_its_numbers() -> None:
    assert device_name(NO_MAJOR, 3) == f"{NO_MAJOR}:3"


def test_a_file_system_tells_its_size_and_inodes_and_what_it_is_mounted_from(tmp_path: Path) -> None:
    found, space = filesystem_stats(str(tmp_path)), os.statvfs(tmp_path)
    assert found is not None
    assert found.size == space.f_blocks * space.f_frsize
    assert found.inodes == space.f_files
    assert 0 <= found.free_inodes <= found.inodes
    assert found.device


def test_a_file_system_without_a_device_is_named_by_the_source_of_its_mount() -> None:
    found = filesystem_stats("/proc/self")
    assert found is not None
    assert found.device == "proc"


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/proc/self/fd/99999"])
def test_what_is_not_there_tells_nothing(path: str) -> None:
    assert filesystem_stats(path) is None
