"""A file of lines for root only, which makes room for a new one when it is full: PATH, PATH.1, …"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence

_MODE = 0o600
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class RotatedFile:
    """To be used by one thread at a time: its disk may hang. Each method raises OSError."""

    def __init__(self, path: str, size_max: int, files: int) -> None:
        """`size_max`: bytes of one file; `files`: how many are kept, the one in use included."""
        self._path = path
        self._size_max = size_max
        self._files = files
        self._file = -1
        self.written = 0
        """Lines of the latest append."""

    def open(self) -> None:
        """Make the file, or go on with the one that is there. It must be a regular one, and ours."""
        self.close()
        file = os.open(self._path, _FLAGS, _MODE)
        try:
            _take_over(file, self._path)
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def append(self, lines: Sequence[bytes]) -> None:
        """Write whole lines, each with its end. After an error `written` says how many of them are there."""
        self.written = 0
        if not self._is_in_place():  # it was removed, or set aside by somebody else
            self.open()
        size = os.fstat(self._file).st_size
        chunk: list[bytes] = []
        for line in lines:
            if size and size + len(line) > self._size_max:
                self._write(chunk)
                self._rotate()
                chunk, size = [], 0
            chunk.append(line)
            size += len(line)
        self._write(chunk)

    def _is_in_place(self) -> bool:
        if self._file < 0:
            return False
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _write(self, lines: Sequence[bytes]) -> None:
        before, data = os.fstat(self._file).st_size, memoryview(b"".join(lines))
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise
        self.written += len(lines)

    def _rotate(self) -> None:
        names = [self._path, *(f"{self._path}.{number}" for number in range(1, self._files))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(FileNotFoundError):
                os.rename(newer, older)
        number = self._files
        if self._files == 1:
            os.unlink(self._path)
        while os.path.lexists(extra := f"{self._path}.{number}"):  # more were kept once
            os.unlink(extra)
            number += 1
        self.open()


def _take_over(file: int, path: str) -> None:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", path)
    if status.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"belongs to uid {status.st_uid}", path)
    if stat.S_IMODE(status.st_mode) != _MODE:
        os.fchmod(file, _MODE)
    if status.st_size and os.pread(file, 1, status.st_size - 1) != b"\n":
        os.write(file, b"\n")  # the machine went down within a line
