"""How full volumes are. All of it blocks: for threads."""

from __future__ import annotations

import os

from crib.host import quotas
from crib.host.files import disk_usage
from crib.host.mount_table import is_mountpoint
from crib.model.errors import WrongState
from crib.model.volumes import VolumeUsage

MAX_COUNTED = 2_000_000
"""Files of a directory that are counted: some seconds with a warm cache, and minutes from a slow disk."""


def filesystem_usage(path: str) -> VolumeUsage:
    """Of a file system that is mounted at `path`, as it tells itself. OSError, WrongState."""
    if not is_mountpoint(path):
        raise WrongState(f"nothing is mounted at {path}")
    found = os.statvfs(path)
    unit = found.f_frsize
    return VolumeUsage(
        total=found.f_blocks * unit,
        available=found.f_bavail * unit,
        used=(found.f_blocks - found.f_bfree) * unit,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
        inodes_used=found.f_files - found.f_ffree,
    )


def directory_usage(path: str) -> VolumeUsage:
    """Of a directory and all below it: by its quota at once, else by counting. OSError.

    What it may hold is its limit, and what is left of its file system, whichever is less.
    """
    found = os.statvfs(path)
    unit = found.f_frsize
    held = quotas.usage(path)
    problem = ""
    if held is None:
        counted = disk_usage(path, MAX_COUNTED)
        held = quotas.QuotaUse(counted.bytes, counted.inodes, 0, 0)
        if not counted.complete:
            problem = f"there are more files than the {counted.inodes} that were counted"
    total, available = found.f_blocks * unit, found.f_bavail * unit
    inodes, inodes_free = found.f_files, found.f_ffree
    if held.max_bytes:
        total = held.max_bytes
        available = min(available, max(total - held.bytes, 0))
    if held.max_inodes:
        inodes = held.max_inodes
        inodes_free = min(inodes_free, max(inodes - held.inodes, 0))
    return VolumeUsage(total, available, held.bytes, inodes, inodes_free, held.inodes, problem)
