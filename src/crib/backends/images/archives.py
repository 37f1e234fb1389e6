"""Archives that somebody names, opened in threads: they may lie on a file system that does not answer."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator
from functools import partial

from crib.backends.failures import failure, foreign
from crib.host import libc
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.errors import InvalidRequest

ARCHIVE_SECONDS = 10.0
"""To open an archive or a file of its directory, or find out that it is not there; and to close it."""


@contextlib.asynccontextmanager
async def opened_archive(path: str, *, field: str = "path") -> AsyncIterator[tuple[int, bool]]:
    """The archive's descriptor, and whether it is a directory. InvalidRequest of `field`, Unavailable."""
    opened: list[int] = []
    close = partial(close_all, opened)
    try:
        job = Job(f"opening the archive {path}", path, ARCHIVE_SECONDS, late=close)
        is_directory = await foreign(job, _open_archive, path, opened, field)
        yield opened[0], is_directory
    finally:
        if opened:
            with contextlib.suppress(Overdue):
                await FOREIGN.run(Job(f"closing the archive {path}", path, ARCHIVE_SECONDS), close)


async def open_file_of(directory: int, name: str, subject: str) -> int:
    """A regular file below an archive's directory, open. OSError; Overdue, which is one."""
    opened: list[int] = []
    # Whoever opened the directory closes it, perhaps before a thread gets here.
    held = [os.dup(directory)]
    job = Job(f"{subject}: opening {name}", subject, ARCHIVE_SECONDS, late=partial(close_all, opened))
    try:
        await FOREIGN.run(job, _open_regular, held, name, opened)
        return opened.pop()
    finally:
        close_all(opened)
        close_all(held)  # where no thread took it


def _open_archive(path: str, opened: list[int], field: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise failure(f"archive {path} cannot be opened", error, field=field) from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        opened.append(fd)
        return stat.S_ISDIR(mode)
    os.close(fd)
    raise InvalidRequest(f"archive {path} is neither a file nor a directory", field=field)


def _open_regular(held: list[int], name: str, opened: list[int]) -> None:
    """The directory in `held` is taken and closed here."""
    directory = held.pop()
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = libc.openat2(directory, name, flags, resolve=libc.RESOLVE_BENEATH | libc.RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", name)
    opened.append(fd)


def close_all(descriptors: list[int]) -> None:
    """Close what is in the list, and empty it: safe to repeat, and for who comes late."""
    while descriptors:
        os.close(descriptors.pop())
