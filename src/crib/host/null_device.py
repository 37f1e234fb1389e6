"""The host's /dev/null, kept as it must be.

crun before 1.24 gives the standard streams that it finds to the user of what it starts, also when they are
/dev/null. As its new owner a container could close that to the whole host. What needs a null device as a
stream for long gets one of its own (`open_own_null`).
"""

from __future__ import annotations

import os
import stat

from crib.host import libc

PATH = "/dev/null"
_MODE = 0o666


def keep_null_device(path: str = PATH) -> bool:
    """Give /dev/null back to root, with the mode that everybody relies on; whether that was needed.

    Called after a runtime had it as a standard stream, and before anything in the container runs. What is not
    the null device (null(4)) is left alone.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
            return False
        changed = False
        if (found.st_uid, found.st_gid) != (0, 0):
            os.fchown(fd, 0, 0)
            changed = True
        if stat.S_IMODE(found.st_mode) != _MODE:
            os.fchmod(fd, _MODE)
            changed = True
        return changed
    finally:
        os.close(fd)


def open_own_null() -> int:
    """A null device that only this descriptor leads to: its owner and mode are nobody else's. OSError.

    It is on a file system in memory that is mounted nowhere, and goes with the last descriptor (fsmount(2)).
    """
    context = libc.fsopen("tmpfs")
    try:
        libc.fsconfig_create(context)
        mount = libc.fsmount(context, libc.MOUNT_ATTR_NOSUID)
    finally:
        os.close(context)
    try:
        os.mknod("null", stat.S_IFCHR | _MODE, os.makedev(1, 3), dir_fd=mount)
        os.chmod("null", _MODE, dir_fd=mount)  # whatever the umask
        return os.open("null", os.O_RDWR | os.O_CLOEXEC, dir_fd=mount)
    finally:
        os.close(mount)
