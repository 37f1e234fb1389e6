"""What volumes of kind `block` do to files, devices and mounts. All of it blocks: for threads.

Each function may be repeated after it was cut off at any point. OSError; WrongState where somebody else uses
what is wanted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from crib.host import clones, files, mounts
from crib.host.directories import make_directory
from crib.host.disk_filesystems import is_busy, size_of
from crib.host.loop_devices import attach_loop, attached_loop, detach_loop, find_loops, refresh_size
from crib.host.mount_table import mounts_below
from crib.host.tree_copies import CopyBudget, copy_content
from crib.model.errors import WrongState

PARTIAL = ".partial"
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SYSFS = "/sys/fs/ext4"


@dataclass(frozen=True, slots=True)
class FileOrDevice:
    """A file or a device, looked at."""

    path: str
    size: int
    allocated: int | None
    """Bytes on disk; None of a device."""
    is_file: bool


def look(path: str) -> FileOrDevice:
    """What the path leads to: a regular file or a block device; anything else is WrongState."""
    found = os.stat(path)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise WrongState(f"{path} is neither a file nor a block device")
    is_file = stat.S_ISREG(found.st_mode)
    return FileOrDevice(path, size_of(path), found.st_blocks * 512 if is_file else None, is_file)


def note(path: str) -> None:
    """Make an empty file that outlives a power cut."""
    make_directory(os.path.dirname(path), 0o700)
    if not os.path.lexists(path):
        files.atomic_write(path, b"", 0o600, sync=True)


@dataclass(frozen=True, slots=True)
class FileSize:
    """What a file is to have: bytes, and whether their blocks are taken at once.

    Of those `min_free` bytes must be left.
    """

    size: int = 0
    allocated: bool = False
    min_free: int = 0


AS_IT_IS = FileSize()
"""Of a copy that is as large as the original."""


def begin(path: str, room: FileSize) -> str:
    """A new file of zeros for the file `path`, under another name until `finish`; returns that name."""
    fd = _new(partial := path + PARTIAL)
    try:
        _enlarge(fd, path, room)
    finally:
        os.close(fd)
    return partial


def begin_copy(source: str, path: str, room: FileSize, budget: CopyBudget) -> None:
    """The same with the content of a file or device; zeros follow it where more is wanted."""
    with _reading(source) as reader:
        fd = _new(path + PARTIAL)
        try:
            content = os.lseek(reader, 0, os.SEEK_END)
            budget.take(content)
            copy_content(reader, fd, content, budget)
            _enlarge(fd, path, room)
        finally:
            os.close(fd)


def begin_clone(source: str, path: str) -> None:
    """The same, but only where it is done in a moment: WrongState where the content had to be copied."""
    with _reading(source) as reader:
        fd = _new(path + PARTIAL)
        try:
            if not clones.clone(reader, fd):
                raise WrongState(f"{source} is in use, and its disk has no clones: stop its pods first")
        finally:
            os.close(fd)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def finish(path: str) -> None:
    """The file is whole: it gets its name, and outlives a power cut."""
    fd = os.open(path + PARTIAL, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path + PARTIAL, path)
    files.sync_directory(os.path.dirname(path))


def enlarge(path: str, room: FileSize) -> int:
    """Give the file at least so many bytes; what it has then."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _enlarge(fd, path, room)
        os.fsync(fd)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _enlarge(fd: int, path: str, room: FileSize) -> None:
    status = os.fstat(fd)
    size = max(status.st_size, room.size)
    if room.allocated:
        _require_free(path, size - status.st_blocks * 512 + room.min_free)
        os.posix_fallocate(fd, 0, size)
    os.ftruncate(fd, size)


def _require_free(path: str, size: int) -> None:
    """ENOSPC unless so many bytes are free where the file `path` is."""
    found = os.statvfs(os.path.dirname(path))
    free = found.f_bavail * found.f_frsize
    if free < size:
        raise OSError(errno.ENOSPC, f"{size} bytes are needed, and {free} are free", path)


def require_unused(source: FileOrDevice) -> None:
    """WrongState while a device is mounted or part of something, or a file is attached to a loop device.

    Two kernels' views of one file system, or two of one kernel, destroy it.
    """
    if source.is_file:
        if devices := find_loops(source.path):
            raise WrongState(f"{source.path} is in use: it is attached to {devices[0]}")
    elif is_busy(source.path):
        raise WrongState(
            f"{source.path} is in use: it is mounted, or part of an array, a volume group or swap"
        )


def require_unmounted(source: FileOrDevice) -> None:
    """WrongState while somebody has mounted a device, or one that the file is attached to."""
    for device in find_loops(source.path) if source.is_file else [source.path]:
        if is_busy(device):
            raise WrongState(f"{source.path} is in use: {device} is mounted, or part of something larger")


def mount(source: FileOrDevice, target: str, fs_type: str, options: tuple[str, ...]) -> None:
    """Mount it; a file by a loop device that goes with the mount, past the page cache where that can be."""
    make_directory(target, 0o755)
    with contextlib.ExitStack() as attached:
        device = source.path
        if source.is_file:
            loop = attached_loop(source.path, writable=True, direct_io=True)
            device = attached.enter_context(loop).path
        mounts.perform(mounts.Disk(target, device, fs_type, options))


def mounted_from(target: str) -> str:
    """The device that is mounted at `target`; empty when none is. Of mounts over each other the topmost."""
    here = os.path.realpath(target)
    return next((entry.source for entry in mounts_below(here) if entry.path == here), "")


def is_of(device: str, source: FileOrDevice) -> bool:
    """Whether the device is what the source is, or is attached to."""
    if source.is_file:
        return device in find_loops(source.path)
    try:
        return os.stat(device).st_rdev == os.stat(source.path).st_rdev
    except FileNotFoundError:
        return False


def unmount(target: str) -> None:
    """Unmount what is there and remove the directory. EBUSY while somebody works in it."""
    while mounts.unmount(target):
        pass
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(target)


def bind(stage: str, target: str, *, read_only: bool) -> None:
    """Show the mounted file system at another place; one that is shown there otherwise is replaced.

    WrongState where none is mounted: what lies below its place is no volume.
    """
    if not mounts.is_mountpoint(stage):
        raise WrongState(f"nothing is mounted at {stage}")
    make_directory(target, 0o755)
    here = os.path.realpath(target)
    shown = [entry for entry in mounts_below(here) if entry.path == here]
    if len(shown) == 1 and shown[0].read_only == read_only and os.path.samefile(stage, target):
        return
    while mounts.unmount(target):
        pass
    mounts.perform(mounts.Bind(stage, target, recursive=False, read_only=read_only))


def device_of(source: FileOrDevice) -> str:
    """The device itself, or the one that the file is attached to: now, if it was not, or is about to end."""
    if not source.is_file:
        return source.path
    attached = find_loops(source.path, lasting=True)
    return attached[0] if attached else attach_loop(source.path, direct_io=True).path


def detach(path: str) -> None:
    """The file's loop devices end now, or with their last user. What is no file has none of ours."""
    if not os.path.isfile(path):
        return
    for device in find_loops(path):
        detach_loop(device)


def refresh(path: str) -> None:
    """The file's loop devices become as large as it is."""
    for device in find_loops(path):
        refresh_size(device)


def copy_frozen(source: str, path: str, stage: str, budget: CopyBudget) -> None:
    """Copy a file or device while the file system on it, which is mounted at `stage`, stands still."""
    clones.freeze(stage)
    try:
        begin_copy(source, path, AS_IT_IS, budget)
    finally:
        clones.thaw(stage)


def thaw(stage: str) -> None:
    """What is mounted there goes on, if it was frozen."""
    if mounts.is_mountpoint(stage):
        clones.thaw(stage)


def error_count(device: str) -> int:
    """Errors that ext4 found since it was last checked, of a mounted one; 0 where nobody counts."""
    name = os.path.basename(os.path.realpath(device))
    try:
        with open(f"{_SYSFS}/{name}/errors_count", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _new(path: str) -> int:
    make_directory(os.path.dirname(path), 0o700)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.open(path, _NEW, 0o600)
