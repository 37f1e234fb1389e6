"""Directories of cgroups in one hierarchy: made, walked through and removed, with few system calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

_BUSY = frozenset((errno.EBUSY, errno.ENOTEMPTY))


def make(directory: str, *, shown: bool = True) -> bool:
    """One that may be there already: False then. FileNotFoundError where its parent is missing.

    `shown`: everybody may look into it, whatever the umask: monitoring does.
    """
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    if shown:
        os.chmod(directory, 0o755)  # noqa: S103
    return True


def walk(directory: str) -> Iterator[str]:
    """A cgroup and all below it, parents first."""
    waiting = [directory]
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(current) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
        yield current
        waiting += below


def remove_tree(top: str) -> OSError | None:
    """A cgroup with all below it; EBUSY where that cannot be done yet. Looks below only if it has to."""
    busy = remove_one(top)
    if busy is not None:
        for directory in reversed(list(walk(top))):
            busy = remove_one(directory)
    return busy


def remove_one(directory: str) -> OSError | None:
    """A cgroup with nothing below it, or none; EBUSY where something is in it."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _BUSY:
            raise
        return error
    return None
