"""Directories of small documents of others: read when they are needed, decoded when they change."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from crib.backends.failures import why

T = TypeVar("T")

_MAX_BYTES = 4 << 20
_MAX_FILES = 1000
"""Of one directory."""
_SETTLED = 0.1
"""Seconds after which a file's times would tell another write; a file younger than that is read again."""
_Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class FoundFile(Generic[T]):
    """One file: its content, or what is wrong with it."""

    path: str
    content: T | None
    problem: str = ""


class SpecFiles(Generic[T]):
    """The files of some directories whose names end as they must. Blocks; a missing directory is empty."""

    def __init__(
        self, directories: Sequence[str], endings: tuple[str, ...], decode: Callable[[str, bytes], T]
    ) -> None:
        """`decode` gets path and content, and raises ValueError for what it does not like."""
        self.directories = tuple(directories)
        self._endings = endings
        self._decode = decode
        self._known: dict[str, tuple[_Stamp, FoundFile[T]]] = {}

    def read(self) -> list[FoundFile[T]]:
        """All files now, directory by directory, by name within each."""
        found = [self._file(path) for directory in self.directories for path in self._paths(directory)]
        here = {item.path for item in found}
        self._known = {path: known for path, known in self._known.items() if path in here}
        return found

    def _paths(self, directory: str) -> list[str]:
        try:
            names = sorted(name for name in os.listdir(directory) if name.endswith(self._endings))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [f"{directory.rstrip('/')}/{name}" for name in names if not name.startswith(".")][:_MAX_FILES]

    def _file(self, path: str) -> FoundFile[T]:
        try:
            # Nothing but a plain file: opening a fifo would wait for its writer.
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                known = self._known.get(path)
                if known is not None and known[0] == stamp:
                    return known[1]
                if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                    return FoundFile(path, None, f"it is not a plain file of at most {_MAX_BYTES} bytes")
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            return FoundFile(path, None, why(error, path))
        try:
            found = FoundFile(path, self._decode(path, data))
        except ValueError as error:
            found = FoundFile(path, None, str(error))
        if abs(time.time() - max(status.st_mtime, status.st_ctime)) > _SETTLED:
            self._known[path] = (stamp, found)
        return found
