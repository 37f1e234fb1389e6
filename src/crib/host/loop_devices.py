"""Loop devices: a file as a read-only block device that ends with its last user (loop(4))."""

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


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """An attached loop device; `direct_io` says whether the kernel granted it."""

    path: str
    direct_io: bool


@contextlib.contextmanager
def attached_loop(path: str, *, direct_io: bool = False, block_size: int = 512) -> Iterator[LoopDevice]:
    """Attach the file `path` read-only for as long as the block lasts, and then as long as something mounts
    it.

    The device clears itself: mount it inside the block. If another process takes the free number first
    (EBUSY), the next one is tried, a bounded number of times. The kernel refuses direct I/O if the file
    system below the file has larger blocks than `block_size`; then it is not used.
    """
    flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_DIRECT_IO if direct_io else 0)
    file_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device_path, device_fd = _attach(file_fd, path, flags, block_size)
    finally:
        os.close(file_fd)
    try:
        status = fcntl.ioctl(device_fd, _LOOP_GET_STATUS64, bytes(_INFO.size))
        (granted,) = struct.unpack_from("=I", status, _FLAGS_OFFSET)
        yield LoopDevice(device_path, bool(granted & _LO_FLAGS_DIRECT_IO))
    finally:
        os.close(device_fd)


def _attach(file_fd: int, path: str, flags: int, block_size: int) -> tuple[str, int]:
    name = os.fsencode(path)[:63]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    config = _CONFIG_HEAD.pack(file_fd, block_size) + info + _CONFIG_TAIL
    control_fd = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            device_path = f"/dev/loop{fcntl.ioctl(control_fd, _LOOP_CTL_GET_FREE)}"
            device_fd = os.open(device_path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device_fd, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device_fd)
                if error.errno == errno.EBUSY:
                    continue
                text = f"attach of {path} failed: {error.strerror}"
                raise OSError(error.errno, text, device_path) from error
            return device_path, device_fd
    finally:
        os.close(control_fd)
    raise OSError(errno.EBUSY, f"no free loop device after {_TRIES} tries", path)
