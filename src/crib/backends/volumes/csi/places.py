"""The paths on this host that a driver is given: what is made before it is asked, what must hold afterwards.

The staging directory is the caller's, and so is the directory around a target. The target itself is made and
removed by the driver. All but `problem_at` look at our own state directory only, and never into a mount.
"""

from __future__ import annotations

import contextlib
import os
import stat

from crib.host.directories import make_directory
from crib.host.mount_table import is_mountpoint

MODE = 0o700


def make_stage(path: str) -> None:
    make_directory(path, MODE)


def make_room(target: str) -> None:
    """The directory that the driver makes the target in."""
    make_directory(os.path.dirname(target), MODE)


def problem_at(target: str, block: bool) -> str:
    """Why there is not at `target` what should be there; empty: there is. Waits for the volume."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return f"there is nothing at {target}"
    if block:
        return "" if stat.S_ISBLK(mode) else f"{target} is no block device"
    if not stat.S_ISDIR(mode):
        return f"{target} is no directory"
    return "" if is_mountpoint(target) else f"nothing is mounted at {target}"


def clear(path: str) -> str:
    """Remove a target or a staging directory that was given back; why not, if something is left in it.

    What is in it may be a pod's, so nothing of it is removed.
    """
    if is_mountpoint(path):
        return f"something is still mounted at {path}"
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return ""
    if not stat.S_ISDIR(mode):
        os.unlink(path)
        return ""
    if os.listdir(path):
        return f"there are files in {path}, and nothing is mounted there"
    os.rmdir(path)
    return ""


def clear_above(path: str, top: str) -> None:
    """Remove the directories above `path` up to `top`, as far as they are empty."""
    with contextlib.suppress(OSError):  # other uses are in it, or it is not there
        while path != top:
            path = os.path.dirname(path)
            os.rmdir(path)
