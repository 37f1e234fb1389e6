"""A file that somebody wants written: it has its name when it is whole, and never replaces another one.

Until then it is NAME.partial beside it, mode 0600. All of it blocks: for threads.
"""

from __future__ import annotations

import contextlib
import errno
import os

from crib.backends.failures import failure
from crib.model.errors import CribError, Exhausted, InvalidRequest

PARTIAL = ".partial"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class NewFile:
    """One file. InvalidRequest with the field `path` where it cannot be made, `taken` where there is one of
    that name.
    """

    def __init__(self, path: str, taken: type[CribError] = InvalidRequest) -> None:
        """Open the directory, and look whether a file can come there."""
        head, self._name = os.path.split(path)
        if not os.path.isabs(path) or self._name in ("", ".", "..") or "\0" in path:
            raise InvalidRequest(f"{path!r} is not the absolute path of a file", field="path")
        self.path = path
        self._taken = taken
        self.fd = -1
        self._directory = -1
        try:
            self._directory = os.open(head, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise failure(f"directory {head} cannot be opened", error, field="path") from error
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            if self._is_taken():
                raise taken(f"{path} exists", field="path")
            undo.pop_all()

    def make_partial(self, size: int = 0) -> None:
        """Make it, where so many bytes are free; `fd` is open for writing then."""
        status = os.fstatvfs(self._directory)
        free = status.f_bavail * status.f_frsize
        if size > free:
            raise Exhausted(f"{self.path} takes {size} bytes, its file system has {free} left")
        try:
            self.fd = os.open(self._name + PARTIAL, _NEW, 0o600, dir_fd=self._directory)
        except FileExistsError:
            text = f"{self.path}{PARTIAL} exists: it is being written, or was left when that was cut short"
            raise InvalidRequest(text, field="path") from None
        os.fchmod(self.fd, 0o600)

    def finish(self) -> int:
        """Sync it and give it its name, unless somebody has made another one of that name; its bytes."""
        os.fsync(self.fd)
        self._give_name()
        os.fsync(self._directory)
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Whatever has no name by now goes. Safe to repeat."""
        if self.fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name + PARTIAL, dir_fd=self._directory)
            os.close(self.fd)
        if self._directory >= 0:
            os.close(self._directory)
        self.fd = self._directory = -1

    def _give_name(self) -> None:
        partial = self._name + PARTIAL
        places = {"src_dir_fd": self._directory, "dst_dir_fd": self._directory}
        try:
            os.link(partial, self._name, **places, follow_symlinks=False)
        except FileExistsError:
            raise self._already() from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links, such as FAT: here somebody could come in between.
            if self._is_taken():
                raise self._already() from None
            os.rename(partial, self._name, **places)

    def _is_taken(self) -> bool:
        try:
            os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise failure(f"{self.path} cannot be made", error, field="path") from error
        return True

    def _already(self) -> CribError:
        return self._taken(f"{self.path} was created by another process meanwhile", field="path")
