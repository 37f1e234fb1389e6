"""Copying a tree that somebody else wrote: owners, modes, times, links and extended attributes are kept.

Both trees are walked from an open directory, and the kernel is told to follow no link and enter no mount
(openat2(2)), so that neither what is read nor what is written can lie elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from crib.host import libc

_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_CHUNK = 1 << 24
_NOT_CONTENT = ("trusted.", "security.selinux", "security.ima", "security.evm")
"""Extended attributes that belong to overlayfs or to the host's security modules, not to the content."""


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """The most that a copy may hold. `bytes` counts the sizes of regular files."""

    bytes: int
    entries: int


class TooMuch(OSError):
    """The tree is larger than the limits; the text says which one was passed."""


@dataclass(slots=True)
class _Budget:
    limits: CopyLimits
    bytes: int = 0
    entries: int = 0

    def take(self, size: int) -> None:
        self.entries += 1
        self.bytes += size
        if self.entries > self.limits.entries:
            raise TooMuch(errno.EFBIG, f"it has more than {self.limits.entries} files")
        if self.bytes > self.limits.bytes:
            raise TooMuch(errno.EFBIG, f"it has more than {self.limits.bytes} bytes")


def copy_tree(source_fd: int, target_fd: int, limits: CopyLimits) -> None:
    """Fill the empty directory `target_fd` with what `source_fd` holds, and make it like it.

    Both are descriptors opened for reading. OSError names what could not be copied, by its path below the
    source; what was copied until then stays. May block for long.
    """
    budget = _Budget(limits)
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
                    _copy_one(source, target, name, status)
            finally:
                os.close(target)
        finally:
            os.close(source)
    # Directories last and from below, as filling one changes its times and its mode may forbid it.
    for directory in reversed(done):
        _finish_directory(source_fd, target_fd, directory)


def _copy_one(source: int, target: int, name: str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        _copy_file(source, target, name, status)
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


def _copy_file(source: int, target: int, name: str, status: os.stat_result) -> None:
    reader = libc.openat2(source, name, os.O_RDONLY | os.O_NOFOLLOW, resolve=_BENEATH)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        writer = libc.openat2(target, name, flags, resolve=_BENEATH, mode=0o600)
        try:
            left = status.st_size
            while left > 0 and (sent := os.sendfile(writer, reader, None, min(left, _CHUNK))):
                left -= sent
            _adopt(reader, writer, status)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


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
