"""Project quotas: how much a directory and all below it may hold (quotactl_fd(2), ext4 and XFS).

A directory gets a project number, which everything that is made below it inherits, and the number gets a
limit. The file system must have been mounted with `prjquota`. Sources: quotactl(2); linux/fs.h, `struct
fsxattr`; linux/quota.h and linux/dqblk_xfs.h. XFS answers the general calls as well (kernel 3.18).

Who would go beyond a limit gets EDQUOT from ext4 and ENOSPC from XFS. On ext4 a process with CAP_SYS_RESOURCE
passes all limits. Whoever owns a file can give it another project,
unless a user namespace holds him: a limit holds off programs that write too much, not ones that mean to.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from crib.host import libc

_SYS_QUOTACTL_FD = 443
_PROJECT = 2  # PRJQUOTA
_GET_QUOTA = 0x800007
_SET_QUOTA = 0x800008
_GET_STATE = 0x5808  # Q_XGETQSTATV
_ENFORCED = 1 << 5  # FS_QUOTA_PDQ_ENFD
_STATE_VERSION = 1
_STATE_SIZE = 256
"""More than `struct fs_quota_statv` takes."""
_LIMITS_VALID = 0x5  # QIF_BLIMITS | QIF_ILIMITS

# struct if_dqblk: the hard and soft limit of space in KiB, bytes in use; the same of inodes; two times; what
# of it is valid.
_QUOTA = struct.Struct("=8QI4x")
_UNIT = 1024

# struct fsxattr: flags, extent size, number of extents, project, size of extents that are copied on write.
_FLAGS = struct.Struct("=5I8x")
_GET_FLAGS = 0x801C581F  # FS_IOC_FSGETXATTR
_SET_FLAGS = 0x401C5820  # FS_IOC_FSSETXATTR
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT

FIRST_PROJECT = 0x6372_0000
"""Projects of ours begin here: people give out small numbers, and Kubernetes' kubelet those from 2**20 on."""
LAST_PROJECT = 0x6372_FFFF
_NOT_OFFERED = frozenset(
    (errno.ESRCH, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENODEV, errno.ENOTBLK)
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_quotactl_fd = libc._function(
    "syscall", ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p
)
_giving = threading.Lock()
"""Held while a free number is looked for and taken."""


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """What a project holds and may hold: bytes and inodes; a limit of 0 is none."""

    bytes: int
    inodes: int
    max_bytes: int
    max_inodes: int


def is_offered(path: str) -> bool:
    """Whether the file system that the directory `path` is on keeps to limits of projects. OSError."""
    with _opened(path) as fd:
        return _offered(fd)


def set_limit(path: str, max_bytes: int, max_inodes: int = 0) -> None:
    """What the directory `path` may hold with all below it; 0: as much as it likes. Safe to repeat.

    A directory without a project gets one of its own first, and must be empty then: what is in it would not
    count. EOPNOTSUPP where quotas are not offered, ENOTEMPTY, ENOSPC when all numbers are taken.
    """
    with _opened(path) as fd:
        if not _offered(fd):
            text = "the file system has no project quotas (it must be mounted with prjquota)"
            raise OSError(errno.EOPNOTSUPP, text, path)
        project = _project(fd)
        if project:
            _set(fd, project, max_bytes, max_inodes)
            return
        if os.listdir(fd):
            raise OSError(errno.ENOTEMPTY, "only an empty directory can be given a quota", path)
        with _giving:
            project = _free_project(fd, path)
            # The limit first: with it the number is taken, also for a process that does not hold the lock.
            _set(fd, project, max_bytes, max_inodes)
        flags, extent, count, _, copied = _FLAGS.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_FLAGS.size)))
        fcntl.ioctl(fd, _SET_FLAGS, _FLAGS.pack(flags | _INHERIT, extent, count, project, copied))


def usage(path: str) -> QuotaUse | None:
    """What is held by the project of the directory `path`; None when it has none of ours. OSError.

    Costs microseconds, however much there is.
    """
    with _opened(path) as fd:
        project = _project(fd)
        return _get(fd, project) if project else None


def clear(path: str) -> None:
    """Give the number of the directory's project back, before the directory is removed. Safe to repeat."""
    with _opened(path) as fd:
        if project := _project(fd):
            _set(fd, project, 0, 0)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _offered(fd: int) -> bool:
    state = bytearray(_STATE_SIZE)
    state[0] = _STATE_VERSION
    try:
        _call(fd, _GET_STATE, 0, state)
    except OSError as error:
        if error.errno in _NOT_OFFERED:
            return False
        raise
    (flags,) = struct.unpack_from("=H", state, 2)
    return bool(flags & _ENFORCED)


def _project(fd: int) -> int:
    """The directory's project if it is one of ours; 0 without one, and where there is no such thing."""
    try:
        *_, project, _ = _FLAGS.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_FLAGS.size)))
    except OSError as error:
        if error.errno in _NOT_OFFERED:
            return 0
        raise
    return project if FIRST_PROJECT <= project <= LAST_PROJECT else 0


def _free_project(fd: int, path: str) -> int:
    """The first number of ours from the directory's inode on that has no limit and holds nothing."""
    count = LAST_PROJECT - FIRST_PROJECT + 1
    start = os.fstat(fd).st_ino
    for step in range(count):
        project = FIRST_PROJECT + (start + step) % count
        if _get(fd, project) == QuotaUse(0, 0, 0, 0):
            return project
    raise OSError(errno.ENOSPC, f"all {count} projects of the file system's quota are taken", path)


def _get(fd: int, project: int) -> QuotaUse:
    quota = bytearray(_QUOTA.size)
    try:
        _call(fd, _GET_QUOTA, project, quota)
    except OSError as error:
        if error.errno != errno.ENOENT:  # what XFS says of a number that was never used
            raise
    space, _, held, inodes, _, held_inodes, *_ = _QUOTA.unpack(quota)
    return QuotaUse(held, held_inodes, space * _UNIT, inodes)


def _set(fd: int, project: int, max_bytes: int, max_inodes: int) -> None:
    # Rounded up: less than was asked for would be a surprise. No soft limits: they would end in a week.
    space = -(-max_bytes // _UNIT)
    quota = bytearray(_QUOTA.pack(space, 0, 0, max_inodes, 0, 0, 0, 0, _LIMITS_VALID))
    _call(fd, _SET_QUOTA, project, quota)


def _call(fd: int, command: int, project: int, data: bytearray) -> None:
    buffer = (ctypes.c_char * len(data)).from_buffer(data)
    number = ctypes.c_int(project).value
    libc._checked(
        _quotactl_fd(_SYS_QUOTACTL_FD, fd, command << 8 | _PROJECT, number, ctypes.addressof(buffer))
    )
