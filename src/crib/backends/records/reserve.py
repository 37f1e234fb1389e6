"""Room that is kept on the disk of the records, for the day when it is full: ends are recorded then."""

from __future__ import annotations

import contextlib
import errno
import os
import threading

RESERVE_BYTES = 8 << 20
"""Some hundreds of commits."""


class Reserve:
    """A file of nothing. Its methods block, and may be called from any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._directory = os.path.dirname(path)
        self._lock = threading.Lock()

    def try_writing(self) -> None:
        """OSError when the disk takes nothing: SQLite's own words for that tell less."""
        with self._lock:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, b"\0", 0)
            finally:
                os.close(fd)

    def keep(self) -> None:
        """Have the file, if there is room for it and as much again; OSError (ENOSPC, EROFS) else."""
        with self._lock:
            space = os.statvfs(self._directory)
            if space.f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), self._directory)
            if self._size() >= RESERVE_BYTES:
                return
            free = space.f_bfree * space.f_frsize
            if free < 2 * RESERVE_BYTES:
                raise OSError(errno.ENOSPC, f"no space left: {free >> 20} MiB are free", self._path)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
            finally:
                os.close(fd)

    def give_up(self) -> bool:
        """Free its room; whether there was any."""
        with self._lock, contextlib.suppress(OSError):
            size = self._size()
            os.unlink(self._path)
            return size > 0
        return False

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_blocks * 512
        except FileNotFoundError:
            return 0
