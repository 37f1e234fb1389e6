"""Files that share their blocks with another one (ioctl_ficlone(2)), and file systems that stand still for a
moment (FIFREEZE and FITHAW of linux/fs.h).
"""

from __future__ import annotations

import errno
import fcntl
import os

_CLONE = 0x40049409  # FICLONE
_FREEZE = 0xC0045877  # FIFREEZE
_THAW = 0xC0045878  # FITHAW
_CANNOT = frozenset((errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM))
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def clone(source_fd: int, target_fd: int) -> bool:
    """Make the empty file `target_fd` a clone of `source_fd`; False where the file system has no clones.

    Costs nothing but the map of the blocks. OSError, such as ENOSPC.
    """
    try:
        fcntl.ioctl(target_fd, _CLONE, source_fd)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def freeze(path: str) -> bool:
    """Write out the file system that is mounted at `path`, and stop it: who writes to it waits until `thaw`.

    False when it is frozen already. It stays frozen when the process that did it is gone. May block for long;
    EOPNOTSUPP where the file system cannot.
    """
    fd = os.open(path, _DIRECTORY)
    try:
        fcntl.ioctl(fd, _FREEZE, 0)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    finally:
        os.close(fd)
    return True


def thaw(path: str) -> bool:
    """Let it go on; False when it was not frozen."""
    fd = os.open(path, _DIRECTORY)
    try:
        fcntl.ioctl(fd, _THAW, 0)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return False
    finally:
        os.close(fd)
    return True
