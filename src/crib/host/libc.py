"""The few C library and kernel calls that the standard library lacks.

Every wrapper raises `OSError(errno, text, filename)`. Calls release the GIL while they are in the kernel.
System calls of the newer mount interface have the same numbers on every architecture that crib runs on
(x86-64, arm64).
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_CLOEXEC = 1
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x00100000

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SYNC_FILE_RANGE_WRITE = 2

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_FSPICK = 433
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

_SYS_SETRESUID = {"x86_64": 117, "aarch64": 147}.get(os.uname().machine, -1)

_OPENAT2_TRIES = 128

_libc = ctypes.CDLL(None, use_errno=True)
_int, _uint, _long, _ulong = ctypes.c_int, ctypes.c_uint, ctypes.c_long, ctypes.c_ulong
_str, _ptr = ctypes.c_char_p, ctypes.c_void_p


def _function(name: str, *argument_types: Any) -> Any:
    function = _libc[name]  # indexing gives a new object each time, so `syscall` can have many signatures
    function.argtypes = argument_types
    function.restype = _long if name == "syscall" else _int
    return function


_mount = _function("mount", _str, _str, _str, _ulong, _str)
_umount2 = _function("umount2", _str, _int)
_unshare = _function("unshare", _int)
_setns = _function("setns", _int, _int)
_sync_file_range = _function("sync_file_range", _int, ctypes.c_int64, ctypes.c_int64, _uint)
_prctl = _function("prctl", _int, _ulong, _ulong, _ulong, _ulong)
_sethostname = _function("sethostname", _str, ctypes.c_size_t)
_inotify_init1 = _function("inotify_init1", _int)
_inotify_add_watch = _function("inotify_add_watch", _int, _str, ctypes.c_uint32)
_inotify_rm_watch = _function("inotify_rm_watch", _int, _int)
_syncfs = _function("syncfs", _int)
_open_tree = _function("syscall", _long, _int, _str, _uint)
_move_mount = _function("syscall", _long, _int, _str, _int, _str, _uint)
_fsopen = _function("syscall", _long, _str, _uint)
_fsconfig = _function("syscall", _long, _int, _uint, _str, _str, _int)
_fsmount = _function("syscall", _long, _int, _uint, _uint)
_fspick = _function("syscall", _long, _int, _str, _uint)
_mount_setattr = _function("syscall", _long, _int, _str, _uint, _ptr, ctypes.c_size_t)
_setresuid = _function("syscall", _long, _int, _int, _int)
_openat2 = _function("syscall", _long, _int, _str, _ptr, ctypes.c_size_t)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_malloc_trim = getattr(_libc, "malloc_trim", None)
_mallopt = getattr(_libc, "mallopt", None)
_M_ARENA_MAX = -8


def _checked(result: int, filename: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), filename)
    return result


def _encoded(path: str | None) -> bytes | None:
    if path is None:
        return None
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, "path contains a NUL byte", path)
    return encoded


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    _checked(_mount(_encoded(source), _encoded(target), _encoded(fstype), flags, _encoded(data)), target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2); `flags` of MNT_DETACH and UMOUNT_NOFOLLOW."""
    _checked(_umount2(_encoded(target), flags), target)


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread, which must end afterwards and never return to a pool."""
    _checked(_unshare(flags))


def setns(fd: int, nstype: int) -> None:
    """setns(2) for the calling thread, which must end afterwards and never return to a pool."""
    _checked(_setns(fd, nstype))


def set_thread_euid(uid: int) -> None:
    """setresuid(2) of the effective user for the calling thread alone, which must end afterwards.

    The C library's function would change all threads. The thread loses its capabilities unless `uid` is 0.
    """
    _checked(_setresuid(_SYS_SETRESUID, -1, uid, -1))


def start_writeback(fd: int) -> None:
    """Have the kernel begin to write a file's dirty pages, without waiting for them (sync_file_range(2)).

    Nothing is durable by it; a later fsync has less to wait for.
    """
    _checked(_sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE))


def set_parent_death_signal(number: int) -> None:
    """Have this process be sent a signal when the thread that forked it ends (PR_SET_PDEATHSIG)."""
    _checked(_prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def set_child_subreaper() -> None:
    """Make this process adopt the orphans among its descendants (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _checked(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def sethostname(name: str) -> None:
    """Set the host name of the calling thread's UTS namespace (at most 64 bytes)."""
    encoded = os.fsencode(name)
    _checked(_sethostname(encoded, len(encoded)), name)


def syncfs(fd: int) -> None:
    """syncfs(2): may block for long."""
    _checked(_syncfs(fd))


def inotify_init() -> int:
    """A new inotify descriptor, non-blocking and close-on-exec."""
    return _checked(_inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch `path`; returns the watch descriptor."""
    return _checked(_inotify_add_watch(fd, _encoded(path), mask), path)


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Watch that no more; EINVAL when what was watched is gone, and the watch with it."""
    _checked(_inotify_rm_watch(fd, watch))


def open_tree(path: str, flags: int, dir_fd: int = AT_FDCWD) -> int:
    """open_tree(2): with OPEN_TREE_CLONE a detached copy of the mount at `path` (kernel 5.2)."""
    return _checked(_open_tree(_SYS_OPEN_TREE, dir_fd, _encoded(path), flags | OPEN_TREE_CLOEXEC), path)


def move_mount(mount_fd: int, target: str, dir_fd: int = AT_FDCWD) -> None:
    """Attach the detached mount `mount_fd` at `target` (kernel 5.2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH
    _checked(_move_mount(_SYS_MOVE_MOUNT, mount_fd, b"", dir_fd, _encoded(target), flags), target)


def fsopen(fstype: str) -> int:
    """A new file system context; ENODEV when the kernel does not know the type (kernel 5.2)."""
    return _checked(_fsopen(_SYS_FSOPEN, _encoded(fstype), FSOPEN_CLOEXEC), fstype)


def fsconfig_string(fs_fd: int, key: str, value: str) -> None:
    """Set one option of a file system context; the kernel takes values of at most 255 bytes."""
    _checked(_fsconfig(_SYS_FSCONFIG, fs_fd, FSCONFIG_SET_STRING, _encoded(key), _encoded(value), 0), value)


def fsconfig_flag(fs_fd: int, key: str) -> None:
    """Set one option without a value."""
    _checked(_fsconfig(_SYS_FSCONFIG, fs_fd, FSCONFIG_SET_FLAG, _encoded(key), None, 0), key)


def fsconfig_create(fs_fd: int) -> None:
    """Make the superblock that the options describe."""
    _checked(_fsconfig(_SYS_FSCONFIG, fs_fd, FSCONFIG_CMD_CREATE, None, None, 0))


def fsmount(fs_fd: int, attributes: int) -> int:
    """A detached mount of the made superblock, with MOUNT_ATTR_* `attributes`."""
    return _checked(_fsmount(_SYS_FSMOUNT, fs_fd, FSMOUNT_CLOEXEC, attributes))


def fspick(path: str) -> int:
    """A context of the superblock of the file system that is mounted at `path` (kernel 5.2)."""
    return _checked(_fspick(_SYS_FSPICK, AT_FDCWD, _encoded(path), FSPICK_CLOEXEC), path)


def fsconfig_reconfigure(fs_fd: int) -> None:
    """Give the picked superblock the options, as a remount would; the flags of its mounts stay."""
    _checked(_fsconfig(_SYS_FSCONFIG, fs_fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0))


def mount_setattr(
    mount_fd: int, attributes: int, *, recursive: bool, userns_fd: int | None = None, propagation: int = 0
) -> None:
    """Set MOUNT_ATTR_* on a detached mount and, when `recursive`, on all below it (kernel 5.12).

    `propagation` is MS_PRIVATE, MS_SLAVE, … or 0: as it is.
    """
    wanted = _MountAttr(attributes, 0, propagation, 0)
    if userns_fd is not None:
        wanted.attr_set |= MOUNT_ATTR_IDMAP
        wanted.userns_fd = userns_fd
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _checked(
        _mount_setattr(
            _SYS_MOUNT_SETATTR, mount_fd, b"", flags, ctypes.addressof(wanted), ctypes.sizeof(wanted)
        )
    )


def malloc_trim() -> None:
    """Give freed memory of all heaps back to the system (malloc_trim(3)); nothing without glibc."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def use_one_heap() -> None:
    """For all threads (mallopt(3), M_ARENA_MAX), which the interpreter's lock keeps apart anyway; before the
    second thread begins. Nothing without glibc."""
    if _mallopt is not None:
        _mallopt(_M_ARENA_MAX, 1)


def openat2(dir_fd: int, path: str, flags: int, *, resolve: int, mode: int = 0) -> int:
    """openat2(2), always close-on-exec (kernel 5.6).

    EAGAIN (a rename raced with a `..`) is tried again a bounded number of times.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    encoded = _encoded(path)
    for _ in range(_OPENAT2_TRIES):
        fd: int = _openat2(_SYS_OPENAT2, dir_fd, encoded, ctypes.addressof(how), ctypes.sizeof(how))
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            return _checked(fd, path)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
