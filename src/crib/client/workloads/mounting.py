"""What files of pods need of the kernel: file systems in memory, binds, and names that lead nowhere else."""

from __future__ import annotations

import ctypes
import errno
import os
import re

_MS_NOSUID = 2
_MS_NODEV = 4
_MS_BIND = 4096
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_OPENAT2 = 437
"""The number of openat2(2), on all architectures that crib runs on."""
_NO_MAGICLINKS, _BENEATH = 0x02, 0x08
_TRIES = 100
"""Of openat2, which gives up (EAGAIN) when something is renamed while it follows a `..`."""
_ESCAPE = re.compile(r"\\([0-7]{3})")


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _raise_on(result: int, path: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def open_beneath(directory: int, path: str, flags: int = 0) -> int:
    """Open a path (O_PATH) that the kernel resolves without leaving the directory (openat2(2)).

    Links on the way are followed as long as they lead to within. OSError: EXDEV for one that leads out.
    """
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC | flags, 0, _BENEATH | _NO_MAGICLINKS)
    libc, encoded = _libc(), os.fsencode(path)
    libc.syscall.restype = ctypes.c_long
    for _ in range(_TRIES):
        found: int = libc.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(directory),
            encoded,
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if found >= 0:
            return found
        if ctypes.get_errno() != errno.EAGAIN:
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


def mount_tmpfs(target: str, size: int) -> None:
    """Mount a tmpfs of at most `size` bytes (0: the kernel's default, half of the memory) on a directory."""
    options = f"mode=0777,size={size}" if size else "mode=0777"
    result = _libc().mount(
        b"tmpfs", os.fsencode(target), b"tmpfs", ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), options.encode()
    )
    _raise_on(result, target)


def bind_descriptor(descriptor: int, target: str) -> None:
    """Bind what an open descriptor stands for on `target`: no name is looked up again in between."""
    source = f"/proc/self/fd/{descriptor}".encode()
    _raise_on(_libc().mount(source, os.fsencode(target), None, ctypes.c_ulong(_MS_BIND), None), target)


def mounts_below(directory: str) -> list[str]:
    """Mount points in `directory` or below it, the newest first (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [_ESCAPE.sub(lambda m: chr(int(m[1], 8)), line.split(" ")[4]) for line in file]
    prefix = os.path.join(directory, "")
    return [point for point in reversed(points) if point == directory or point.startswith(prefix)]


def unmount_below(directory: str) -> None:
    """Unmount all that is mounted in `directory` or below it; OSError when something stays."""
    for point in mounts_below(directory):
        _raise_on(_libc().umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW), point)
    if left := mounts_below(directory):
        raise OSError(errno.EBUSY, "still mounted", left[0])
