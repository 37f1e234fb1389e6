"""The few mounts that `crib run` makes for volumes: a tmpfs, and a part of a volume bound by its descriptor.

The command line is a program outside the daemon and does not share its rooms: these three calls are its own.
"""

from __future__ import annotations

import ctypes
import os
import re

MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 4096
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
_ESCAPE = re.compile(r"\\([0-7]{3})")


def _check(result: int, path: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def mount_tmpfs(target: str, size: int) -> None:
    """Mount a tmpfs of at most `size` bytes (0: the kernel's default, half of the memory) on a directory."""
    options = f"mode=0777,size={size}" if size else "mode=0777"
    result = _libc().mount(
        b"tmpfs", os.fsencode(target), b"tmpfs", ctypes.c_ulong(MS_NOSUID | MS_NODEV), options.encode()
    )
    _check(result, target)


def bind_descriptor(descriptor: int, target: str) -> None:
    """Bind what an open descriptor stands for on `target`: no name is looked up again in between."""
    source = f"/proc/self/fd/{descriptor}".encode()
    _check(_libc().mount(source, os.fsencode(target), None, ctypes.c_ulong(MS_BIND), None), target)


def mounts_below(directory: str) -> list[str]:
    """Mount points in `directory` or below it, the newest first (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [_ESCAPE.sub(lambda m: chr(int(m[1], 8)), line.split(" ")[4]) for line in file]
    prefix = os.path.join(directory, "")
    return [point for point in reversed(points) if point == directory or point.startswith(prefix)]


def unmount_below(directory: str) -> None:
    """Unmount all that is mounted in `directory` or below it; OSError when something stays."""
    for point in mounts_below(directory):
        _check(_libc().umount2(os.fsencode(point), MNT_DETACH | UMOUNT_NOFOLLOW), point)
    if left := mounts_below(directory):
        raise OSError(16, "still mounted", left[0])
