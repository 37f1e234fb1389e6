"""Loop devices: a file as a block device, which ends with its last user or when it is detached (loop(4)).

All calls may wait for the file system that the file lies on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_CLR_FD = 0x4C01
_LOOP_SET_CAPACITY = 0x4C07
_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16

# struct loop_info64: five u64, four u32, the file name, the cipher's name and key, two u64; loop_config has a
# descriptor and a block size before it and eight reserved u64 behind it.
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG_HEAD = struct.Struct("=2I")
_CONFIG_TAIL = bytes(64)
_FLAGS_OFFSET = 5 * 8 + 3 * 4

_TRIES = 64
_SYSFS = "/sys/block"


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """An attached loop device; `direct_io` says whether the kernel granted it."""

    path: str
    direct_io: bool


@contextlib.contextmanager
def attached_loop(
    path: str, *, direct_io: bool = False, block_size: int = 512, writable: bool = False
) -> Iterator[LoopDevice]:
    """Attach the file `path` for as long as the block lasts, and then as long as something mounts it.

    The device clears itself: mount it inside the block. If another process takes the free number first
    (EBUSY), the next one is tried, a bounded number of times. The kernel refuses direct I/O if the file
    system below the file has larger blocks than `block_size`; then it is not used.
    """
    flags = _LO_FLAGS_AUTOCLEAR | _flags(direct_io=direct_io, writable=writable)
    device_path, device_fd = _attach(path, flags, block_size)
    try:
        yield LoopDevice(device_path, bool(_status(device_fd)[2] & _LO_FLAGS_DIRECT_IO))
    finally:
        os.close(device_fd)


def attach_loop(path: str, *, direct_io: bool = False, writable: bool = True) -> LoopDevice:
    """Attach the file `path` until `detach_loop`, whether or not anybody uses the device meanwhile."""
    device_path, device_fd = _attach(path, _flags(direct_io=direct_io, writable=writable), 512)
    try:
        return LoopDevice(device_path, bool(_status(device_fd)[2] & _LO_FLAGS_DIRECT_IO))
    finally:
        os.close(device_fd)


def find_loops(path: str, *, lasting: bool = False) -> list[str]:
    """The devices that the file `path` is attached to; none when there is no such file.

    `lasting`: without those that end with their last user. One that was detached is such: udev, which looks
    at every device, may hold it for a moment, and then it is gone.
    """
    try:
        wanted = os.stat(path)
    except FileNotFoundError:
        return []
    name = os.path.realpath(path)
    found = []
    for device in sorted(os.listdir(_SYSFS)):
        try:
            with open(f"{_SYSFS}/{device}/loop/backing_file", "rb") as file:
                backing = os.fsdecode(file.read().removesuffix(b"\n"))
        except OSError:  # no loop device, or one without a file
            continue
        # By its name first: to open a device that is not ours could be its last use, and end it.
        if backing.startswith(name) and _is_of(f"/dev/{device}", wanted, lasting):
            found.append(f"/dev/{device}")
    return found


def detach_loop(device: str) -> bool:
    """Detach it now, or when its last user is gone; False when it was not attached."""
    fd = _opened(device)
    if fd is None:
        return False
    try:
        fcntl.ioctl(fd, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise OSError(error.errno, f"detach failed: {error.strerror}", device) from error
    finally:
        os.close(fd)
    return True


def refresh_size(device: str) -> int:
    """Have the device be as large as its file is now; its size in bytes."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _LOOP_SET_CAPACITY)
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def _flags(*, direct_io: bool, writable: bool) -> int:
    return (_LO_FLAGS_DIRECT_IO if direct_io else 0) | (0 if writable else _LO_FLAGS_READ_ONLY)


def _is_of(device: str, file: os.stat_result, lasting: bool) -> bool:
    fd = _opened(device)
    if fd is None:
        return False
    try:
        number, inode, flags = _status(fd)
    except OSError:  # ENXIO: it was detached meanwhile
        return False
    finally:
        os.close(fd)
    return (number, inode) == (file.st_dev, file.st_ino) and not (lasting and flags & _LO_FLAGS_AUTOCLEAR)


def _opened(device: str) -> int | None:
    try:
        return os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return None
        raise


def _status(device_fd: int) -> tuple[int, int, int]:
    """Of the attached file its device, as in os.stat, and inode; then the flags that the kernel granted."""
    status = fcntl.ioctl(device_fd, _LOOP_GET_STATUS64, bytes(_INFO.size))
    number, inode = struct.unpack_from("=2Q", status)
    (granted,) = struct.unpack_from("=I", status, _FLAGS_OFFSET)
    return number, inode, granted


def _attach(path: str, flags: int, block_size: int) -> tuple[str, int]:
    access = (os.O_RDONLY if flags & _LO_FLAGS_READ_ONLY else os.O_RDWR) | os.O_CLOEXEC
    name = os.fsencode(path)[:63]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    with contextlib.ExitStack() as opened:
        file_fd = os.open(path, access)
        opened.callback(os.close, file_fd)
        config = _CONFIG_HEAD.pack(file_fd, block_size) + info + _CONFIG_TAIL
        control_fd = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        opened.callback(os.close, control_fd)
        for _ in range(_TRIES):
            device_path = f"/dev/loop{fcntl.ioctl(control_fd, _LOOP_CTL_GET_FREE)}"
            device_fd = os.open(device_path, access)
            try:
                fcntl.ioctl(device_fd, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device_fd)
                if error.errno == errno.EBUSY:
                    continue
                text = f"attach of {path} failed: {error.strerror}"
                raise OSError(error.errno, text, device_path) from error
            return device_path, device_fd
    raise OSError(errno.EBUSY, f"no free loop device after {_TRIES} tries", path)
