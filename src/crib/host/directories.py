"""Directories whose mode matters: those that others must pass through, and private ones.

The daemon's umask shuts out all other users (`PRIVATE_UMASK`). What they must reach gets its mode here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PRIVATE_UMASK = 0o077
_OTHERS_WRITE = 0o022
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotOurs(OSError):
    """A directory that another user may have filled."""


def make_directory(path: str, mode: int) -> None:
    """Make a directory and its missing parents, each with this mode, whatever the umask.

    Existing directories keep their mode. OSError; FileExistsError if `path` is something else.
    """
    waiting = [path]
    while waiting:
        place = waiting[-1]
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            if not os.path.isdir(place):
                raise
        except FileNotFoundError:
            parent = os.path.dirname(place.rstrip("/"))
            if parent in ("", place):
                raise
            waiting.append(parent)
            continue
        else:
            # By its descriptor: a pod that may write its parent could have put a link in its place by now.
            fd = os.open(place, _DIRECTORY)
            try:
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
        waiting.pop()


def in_own(path: str, look: Callable[[str], T]) -> T:
    """What `look` returns for a directory that only root may enter. A removed one is made again."""
    try:
        return look(path)
    except FileNotFoundError:
        make_directory(path, 0o700)
        return look(path)


def shut_others_out(path: str, rights: int) -> bool:
    """Remove these bits from the mode of a directory of ours; returns whether any was set.

    NotOurs if another user could have put something into it, which would look like ours.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != os.geteuid():
            raise NotOurs(f"{path} belongs to user {status.st_uid}, and must belong to {os.geteuid()}")
        if mode & _OTHERS_WRITE:
            raise NotOurs(f"others may write {path} (mode {mode:o}): look what is in it, then chmod go-w")
        if mode & rights:
            os.fchmod(fd, mode & ~rights)
        return bool(mode & rights)
    finally:
        os.close(fd)
