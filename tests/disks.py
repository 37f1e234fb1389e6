"""Real file systems of a few MiB, on files."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host.privileges import bounding_set

_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "ext4 with quotas": ("mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
}
_NOBODY = 65534
_SIZES = {"ext4": 32 << 20, "ext4 with quotas": 32 << 20, "xfs": 320 << 20}
"""The least that their programs take is 300 MiB for XFS."""


def can_grow_ext4() -> bool:
    """The kernel asks for that to make a mounted one larger, and not every container's root has it."""
    return "CAP_SYS_RESOURCE" in bounding_set()


@contextlib.contextmanager
def mounted_disk(place: Path, kind: str, options: str = "") -> Iterator[Path]:
    """A new file system of a kind, mounted on `place/disk`. Skips where this host cannot make or mount it."""
    make = _MAKE[kind]
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    image, target = place / "disk.img", place / "disk"
    with image.open("wb") as file:
        file.truncate(_SIZES[kind])
    target.mkdir()
    subprocess.run([*make, str(image)], check=True, capture_output=True)
    with_options = ",".join(filter(None, ("loop", options)))
    command = ["mount", "-o", with_options, str(image), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this kernel cannot mount {kind} with {with_options}")
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True, capture_output=True)
        image.unlink()


def fill(path: str, size: int) -> str:
    """Write as a user without rights, who is held to limits also on ext4; what went wrong."""
    directory, name = os.path.split(path)
    done = subprocess.run(
        ["dd", "if=/dev/zero", f"of={name}", "bs=64k", f"count={size >> 16}", "conv=fsync"],
        cwd=directory,  # the directories above let nobody through
        user=_NOBODY,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr


def too_much(words: str) -> bool:
    """The kernel's own words, which are others for each file system."""
    return "Disk quota exceeded" in words or "No space left" in words
