"""Names of block devices, and the file systems on them."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from crib.host.mount_table import read_mounts

NAMES_KEPT = 256
"""Devices whose names are remembered: a name goes with its number."""


@dataclass(frozen=True, slots=True)
class FilesystemStats:
    """Bytes and inodes of a whole file system; `device` is what it is mounted from."""

    device: str
    size: int
    inodes: int
    free_inodes: int


@functools.lru_cache(NAMES_KEPT)
def device_name(major: int, minor: int) -> str:
    """The path of its node in /dev, by sysfs; MAJOR:MINOR where that does not have it."""
    try:
        name = os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
    except OSError:
        return f"{major}:{minor}"
    return "/dev/" + name.replace("!", "/")  # as the kernel writes a slash within a name


def filesystem_stats(path: str) -> FilesystemStats | None:
    """Of the file system that `path` is on; None where it does not tell."""
    try:
        found, device = os.statvfs(path), os.stat(path).st_dev
    except OSError:
        return None
    return FilesystemStats(
        _mounted_from(path, device), found.f_blocks * found.f_frsize, found.f_files, found.f_ffree
    )


@functools.lru_cache(NAMES_KEPT)
def _mounted_from(path: str, device: int) -> str:
    """Those without a device of their own (btrfs, overlay, tmpfs) have a number that says nothing."""
    if os.major(device):
        return device_name(os.major(device), os.minor(device))
    real = f"{os.path.realpath(path).rstrip('/')}/"
    above = [entry for entry in read_mounts() if real.startswith(f"{entry.path.rstrip('/')}/")]
    # Of two at one place the later one is seen.
    return max(above, key=lambda entry: len(entry.path)).source if above else ""
