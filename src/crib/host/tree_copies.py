"""Copying an untrusted tree. Owners, modes, times, links and extended attributes are kept.

Where the file system can, a copied file shares its blocks with the original until one of them is written.

Both trees are walked from an open directory. The kernel follows no link and enters no mount (openat2(2)), so
that nothing elsewhere can be read or written.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from crib.host import libc
from crib.host.clones import clone

_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_CHUNK = 1 << 19
_BLOCK = 64 << 10
"""Bytes of zeros that become a hole; smaller ones would only tear files to pieces."""
_ZEROS = bytes(_BLOCK)
_LOOK_EVERY = 16 << 20
"""Bytes written between two looks at what is free."""
_NOT_CONTENT = ("trusted.", "security.selinux", "security.ima", "security.evm")
"""Extended attributes that belong to overlayfs or to the host's security modules, not to the content."""


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """The most that copies may hold and take together.

    `bytes` counts the sizes of regular files, holes too. `min_free` bytes stay free on the target's file
    system.
    """

    bytes: int
    entries: int
    seconds: float
    min_free: int = 0


class TooMuch(OSError):
    """A limit was reached; the text says which one, and so does the number.

    EFBIG: the tree is too large. ETIME: it took too long. ENOSPC: there would not be enough left.
    """


class CopyBudget:
    """Limits, and what some copies have used of them."""

    def __init__(self, limits: CopyLimits) -> None:
        self._limits = limits
        self._bytes = self._entries = 0
        self._until = time.monotonic() + limits.seconds
        self._unseen = _LOOK_EVERY  # the first write looks

    def take(self, size: int) -> None:
        """For one entry with a content of that size."""
        self._entries += 1
        self._bytes += size
        if self._entries > self._limits.entries:
            raise TooMuch(errno.EFBIG, f"it has more than {self._limits.entries} files")
        if self._bytes > self._limits.bytes:
            raise TooMuch(errno.EFBIG, f"it has more than {self._limits.bytes} bytes")
        self.look_at_time()

    @property
    def taken(self) -> int:
        """Bytes of files so far, holes too."""
        return self._bytes

    def end(self) -> None:
        """Whoever uses it stops soon: nobody waits for the copies any more."""
        self._until = -math.inf

    def look_at_time(self) -> None:
        """For each step that takes some."""
        if time.monotonic() > self._until:
            raise TooMuch(errno.ETIME, f"it takes longer than {self._limits.seconds:g} s")

    def spend(self, size: int, target: int) -> None:
        """Before that many bytes are written to a file of the target."""
        self._unseen += size
        if self._unseen < _LOOK_EVERY or not self._limits.min_free:
            return
        self._unseen = 0
        status = os.fstatvfs(target)
        free = status.f_bavail * status.f_frsize
        if free - _LOOK_EVERY < self._limits.min_free:
            raise TooMuch(errno.ENOSPC, f"{free} bytes are free and {self._limits.min_free} must stay")


def copy_tree(source_fd: int, target_fd: int, budget: CopyBudget) -> None:
    """Fill the empty directory `target_fd` with what `source_fd` holds, and make it like it.

    Both are descriptors opened for reading. Zeros become holes: an image of some kilobytes must not fill a
    disk. OSError names what could not be copied, by its path below the source; what was copied until then
    stays. May block for long.
    """
    links: dict[tuple[int, int], str] = {}
    done: list[str] = []
    waiting = ["."]
    while waiting:
        directory = waiting.pop()
        done.append(directory)
        source = libc.openat2(source_fd, directory, _OPEN_DIRECTORY, resolve=_BENEATH)
        try:
            target = libc.openat2(target_fd, directory, _OPEN_DIRECTORY, resolve=_BENEATH)
            try:
                with os.scandir(source) as entries:
                    names = [entry.name for entry in entries]
                for name in names:
                    path = name if directory == "." else f"{directory}/{name}"
                    status = os.stat(name, dir_fd=source, follow_symlinks=False)
                    budget.take(status.st_size if stat.S_ISREG(status.st_mode) else 0)
                    if stat.S_ISDIR(status.st_mode):
                        os.mkdir(name, 0o700, dir_fd=target)
                        waiting.append(path)
                        continue
                    key = (status.st_dev, status.st_ino)
                    if status.st_nlink > 1 and (first := links.setdefault(key, path)) != path:
                        os.link(first, name, src_dir_fd=target_fd, dst_dir_fd=target, follow_symlinks=False)
                        continue
                    _copy_one((source, target), name, status, budget)
            finally:
                os.close(target)
        finally:
            os.close(source)
    # Directories last and from below, as filling one changes its times and its mode may forbid it.
    for directory in reversed(done):
        _finish_directory(source_fd, target_fd, directory)


def _copy_one(directories: tuple[int, int], name: str, status: os.stat_result, budget: CopyBudget) -> None:
    source, target = directories
    if stat.S_ISREG(status.st_mode):
        _copy_file(directories, name, status, budget)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif not stat.S_ISSOCK(status.st_mode):  # a socket without its listener is of no use
        os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=target)
    else:
        return
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _copy_file(directories: tuple[int, int], name: str, status: os.stat_result, budget: CopyBudget) -> None:
    source, target = directories
    reader = libc.openat2(source, name, os.O_RDONLY | os.O_NOFOLLOW, resolve=_BENEATH)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        writer = libc.openat2(target, name, flags, resolve=_BENEATH, mode=0o600)
        try:
            copy_content(reader, writer, status.st_size, budget)
            _adopt(reader, writer, status)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def copy_content(reader: int, writer: int, size: int, budget: CopyBudget) -> None:
    """Fill the empty file `writer` with `size` bytes of a file or a device. May block for long."""
    cloned = clone(reader, writer)
    os.ftruncate(writer, size)
    if not cloned:
        copy_data(reader, writer, size, budget)


def copy_data(reader: int, writer: int, size: int, budget: CopyBudget) -> None:
    """Write what is not zeros to a file, or a device, that has zeros so far. May block for long."""
    at, buffer = 0, bytearray(min(_CHUNK, size))
    while at < size:
        budget.look_at_time()
        try:
            at = os.lseek(reader, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole until the end
                return
            if error.errno != errno.EINVAL:  # a device knows of no holes
                raise
        length = os.preadv(reader, [memoryview(buffer)[: size - at]], at)
        if not length:
            return
        for start, end in _filled(buffer, length):
            budget.spend(end - start, writer)
            left = memoryview(buffer)[start:end]
            while left:
                left = left[os.pwrite(writer, left, at + end - len(left)) :]
        at += length


def _filled(data: bytearray, length: int) -> Iterator[tuple[int, int]]:
    """The stretches of blocks that are not all zeros. EROFS files of ours have no holes to be asked for."""
    begin = 0
    for start in range(0, length, _BLOCK):
        if data.startswith(_ZEROS, start, length):
            if begin < start:
                yield begin, start
            begin = start + _BLOCK
    if begin < length:
        yield begin, length


def _finish_directory(source_fd: int, target_fd: int, directory: str) -> None:
    source = libc.openat2(source_fd, directory, _OPEN_DIRECTORY, resolve=_BENEATH)
    try:
        target = libc.openat2(target_fd, directory, _OPEN_DIRECTORY, resolve=_BENEATH)
        try:
            _adopt(source, target, os.fstat(source))
        finally:
            os.close(target)
    finally:
        os.close(source)


def _adopt(source: int, target: int, status: os.stat_result) -> None:
    """Owner first: changing it takes set-uid bits and file capabilities away."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(_NOT_CONTENT):
            _copy_attribute(source, target, name)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_attribute(source: int, target: int, name: str) -> None:
    try:
        value = os.getxattr(source, name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return
        raise
    try:
        os.setxattr(target, name, value)
    except OSError as error:
        # A file system without user attributes or ACLs holds the files all the same.
        if error.errno != errno.EOPNOTSUPP:
            raise
