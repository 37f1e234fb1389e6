"""Files: written whole or not at all, and read or removed in trees whose content is hostile.

Paths inside a container's root are controlled by the image's author and the container: symbolic links there
must never lead out. The kernel resolves them (openat2(2), RESOLVE_IN_ROOT), never string functions.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from crib.host import libc

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH_LIMIT = 64
_CHUNK = 65536
_REMOVE_ROUNDS = 10_000
_IN_ROOT = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
_serial = itertools.count()


def atomic_write(path: str, data: bytes, mode: int = 0o644, *, sync: bool = False) -> None:
    """Write a file so that readers see the old content or the new, whole.

    `mode` is what the file gets, whatever the umask. With `sync` it survives a power cut once this returns,
    which may block for long.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name[:200]}.{os.getpid()}.{next(_serial)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(fd, data)
            os.fchmod(fd, mode)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise OSError(error.errno, f"write failed: {error.strerror}", path) from error
    if sync:
        sync_directory(directory or ".")


def read_small(path: str, limit: int = _CHUNK) -> bytes:
    """At most `limit` bytes of a file, in a third of the system calls of `open`: for what is read all day."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, min(limit, _CHUNK))
        while len(data) < limit and (more := os.read(fd, min(limit - len(data), _CHUNK))):
            data += more
    finally:
        os.close(fd)
    return data


def write_private(path: str, data: bytes) -> None:
    """Write a file of ours, in place, for a reader that comes later. Others may neither read nor write it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, data)
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Make names in a directory survive a power cut; may block for long."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(fd: int) -> None:
    """Write out pending data of the file system of an open file (syncfs(2)); may block for long.

    EIO and ENOSPC mean that data could not be written (kernel 5.8).
    """
    libc.syncfs(fd)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as a process with its root at `root_fd` would: `..` and absolute links stay inside (kernel
    5.6).

    The links of /proc that lead anywhere are refused with ELOOP.
    """
    return libc.openat2(root_fd, path, flags, resolve=_IN_ROOT, mode=mode)


def open_root(root: str) -> int:
    """A descriptor for the root directory of a tree; the caller closes it."""
    return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def read_in_root(root: str, path: str, limit: int) -> bytes:
    """The content of a regular file inside `root`.

    FileNotFoundError when it is missing; OSError with EFBIG when it is longer than `limit` bytes, EINVAL when
    it is anything but a regular file (it is not opened then: opening a device or a pipe has effects).
    """
    root_fd = open_root(root)
    try:
        place_fd = open_in_root(root_fd, path, os.O_PATH)
    finally:
        os.close(root_fd)
    try:
        if not stat.S_ISREG(os.fstat(place_fd).st_mode):
            raise OSError(errno.EINVAL, f"not a regular file in {root}", path)
        fd = os.open(f"/proc/self/fd/{place_fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place_fd)
    with open(fd, "rb", buffering=0) as file:
        data = bytearray()
        while chunk := file.read(min(limit + 1 - len(data), 1 << 20)):
            data += chunk
            if len(data) > limit:
                raise OSError(errno.EFBIG, f"file in {root} is longer than {limit} bytes", path)
    return bytes(data)


def make_dirs_in_root(
    root_fd: int, path: str, mode: int = 0o755, *, owner: tuple[int, int] | None = None
) -> int:
    """Make the directory `path` and its parents inside a root; returns an O_PATH descriptor of it.

    What exists is followed as a process in that root would. What is missing is made, and given to `owner`
    (user and group); a `..` among it, or a dangling link in the way, raises OSError.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    missing: list[str] = []
    while True:
        try:
            fd = open_in_root(root_fd, "/".join(parts) or ".", os.O_PATH | os.O_DIRECTORY)
            break
        except FileNotFoundError:
            missing.append(parts.pop())
    if ".." in missing:
        os.close(fd)
        raise OSError(errno.EINVAL, "directory to make has '..' after a missing part", path)
    for name in reversed(missing):
        made = False
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=fd)
                made = True
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
            inner = libc.openat2(fd, name, flags, resolve=libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_BENEATH)
        finally:
            os.close(fd)
        fd = inner
        if made:  # whatever the umask
            os.chmod(f"/proc/self/fd/{fd}", mode)
            if owner is not None:
                os.chown(f"/proc/self/fd/{fd}", *owner)
    return fd


def remove_tree(path: str) -> None:
    """Remove `path` and all below it, following no link and entering no mount; a missing path is no error.

    EBUSY when something is mounted inside: what lies behind a mount is not ours to remove. Trees of any depth
    take a bounded number of descriptors: what lies deeper than 64 levels is moved up and removed from there.
    """
    parent, name = os.path.split(path.rstrip("/"))
    if not name or name in {".", ".."}:
        raise OSError(errno.EINVAL, "not a path that can be removed", path)
    try:
        parent_fd = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not _unlink(parent_fd, name):
            return
        top_fd = _enter(parent_fd, name)
        try:
            for _ in range(_REMOVE_ROUNDS):
                if _empty(top_fd, top_fd, 0):
                    break
            else:
                raise OSError(errno.ENOTEMPTY, "directory keeps filling while it is removed", path)
        finally:
            os.close(top_fd)
        os.rmdir(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    finally:
        os.close(parent_fd)


def _unlink(dir_fd: int, name: str) -> bool:
    """Remove a name; True when it is a directory and is still there."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        return True
    return False


def _enter(dir_fd: int, name: str) -> int:
    resolve = libc.RESOLVE_NO_XDEV | libc.RESOLVE_NO_SYMLINKS
    try:
        return libc.openat2(dir_fd, name, _DIRECTORY, resolve=resolve)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise OSError(errno.EBUSY, "something is mounted here", name) from error
        raise


def _empty(top_fd: int, dir_fd: int, depth: int) -> bool:
    """Remove what is in a directory; False when something was moved up to the top and remains there."""
    whole = True
    with os.scandir(dir_fd) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listed:
        if not is_directory and not _unlink(dir_fd, name):
            continue
        try:
            os.rmdir(name, dir_fd=dir_fd)
            continue
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        if depth >= _DEPTH_LIMIT:
            os.rename(name, f".deep-{os.getpid()}-{next(_serial)}", src_dir_fd=dir_fd, dst_dir_fd=top_fd)
            whole = False
            continue
        inner_fd = _enter(dir_fd, name)
        try:
            whole = _empty(top_fd, inner_fd, depth + 1) and whole
        finally:
            os.close(inner_fd)
        try:
            os.rmdir(name, dir_fd=dir_fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            whole = False  # another process put something in meanwhile
    return whole


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What a tree takes: bytes of allocated blocks, and inodes. Not `complete` when a bound was reached."""

    bytes: int
    inodes: int
    complete: bool = True


def disk_usage(path: str, max_inodes: int = 10_000_000) -> DiskUsage:
    """Measure a tree without leaving its file system or following links; a missing path takes nothing.

    A file with several names counts once. Takes about 2 µs a file with a warm cache: not for the loop.
    """
    blocks = inodes = 0
    complete = True
    linked: set[int] = set()
    try:
        top = os.lstat(path)
    except FileNotFoundError:
        return DiskUsage(0, 0)
    if not stat.S_ISDIR(top.st_mode):
        return DiskUsage(top.st_blocks * 512, 1)
    blocks, inodes = top.st_blocks, 1
    root_fd = os.open(path, _DIRECTORY)
    try:
        waiting = ["."]
        while waiting and complete:
            directory = waiting.pop()
            try:
                for entry, status in _entries(root_fd, directory):
                    if status.st_dev != top.st_dev:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(f"{directory}/{entry}")
                    elif status.st_nlink > 1:
                        if status.st_ino in linked:
                            continue
                        linked.add(status.st_ino)
                    blocks += status.st_blocks
                    inodes += 1
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV}:
                    complete = False  # too deep a path for one name, or no descriptor left
            complete = complete and inodes <= max_inodes
    finally:
        os.close(root_fd)
    return DiskUsage(blocks * 512, inodes, complete)


def _entries(root_fd: int, directory: str) -> Iterator[tuple[str, os.stat_result]]:
    fd = libc.openat2(root_fd, directory, _DIRECTORY, resolve=libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False)
    finally:
        os.close(fd)
