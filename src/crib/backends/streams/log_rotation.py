"""Setting a container's log aside when it has grown too long.

The names are a kubelet's (`LOG.YYYYMMDD-HHMMSS`), so that either of both removes what the other has left.
conmon's own bound (`--log-size-max`) is not used: it throws away all that was written before.

The log keeps its name until the new one takes that, by a hard link. Where the file system has none, it is
moved to `LOG.rotating` first and gets its stamp when the new log is there: until then no file has its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable

from crib.backends.streams.logs import log_job
from crib.host.threads import FOREIGN
from crib.model.container import ContainerRecord
from crib.model.errors import WrongState

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What link(2) fails with where the file system has no hard links."""
_MOVED = ".rotating"
_ROTATED = re.compile(r"\.\d{8}-\d{6}(?:\.gz)?")


async def rotate(
    record: ContainerRecord, renew: Callable[[], Awaitable[None]], size_max: int, files: int
) -> bool:
    """See ContainerLogs. If interrupted, the log keeps its name, and the next rotation continues.

    `renew` has a new file take the log's name; WrongState when nothing was done for that.
    """
    path, pod = record.log_path, record.sandbox_id
    now = time.time()
    aside = await FOREIGN.run(log_job("rotating", path, pod), set_aside, path, size_max, now)
    if not aside:
        return False
    try:
        await renew()
    except WrongState:  # there will be no new log
        await FOREIGN.run(log_job("undoing the rotation of", path, pod), undo, path, aside)
        raise
    await FOREIGN.run(log_job("ending the rotation of", path, pod), finish, path, files - 1, now)
    return True


def set_aside(path: str, size: int, now: float) -> str:
    """Give a log that has more than `size` bytes the name that it will have next, too; that, or "".

    It loses its own when the new log is renamed over it: whenever we are killed, there is one.
    Where it cannot have two names, it has `LOG.rotating`, and the next call after a kill continues there.
    """
    moved = f"{path}{_MOVED}"
    try:
        found = os.lstat(path)
    except FileNotFoundError:  # somebody else has just moved it away, unless it was us
        return moved if os.path.lexists(moved) else ""
    try:
        if not stat.S_ISREG(found.st_mode) or found.st_size <= size:
            return ""
        if found.st_nlink > 1:  # by a rotation that was cut off
            for known in _rotated(path):
                if os.path.samestat(os.lstat(known), found):
                    return known
        _stamp_moved(path, now)
        aside = _stamped(path, now)
        os.link(path, aside, follow_symlinks=False)
    except FileNotFoundError:  # somebody else has just moved it away
        return ""
    except FileExistsError:  # this second's name is taken: it is not time yet
        return ""
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(path, moved)
        return moved
    return aside


def undo(path: str, aside: str) -> None:
    """Take back `set_aside`, where nothing has taken the log's own name since."""
    with contextlib.suppress(FileNotFoundError):
        if aside.endswith(_MOVED):
            if not os.path.lexists(path):
                os.rename(aside, path)
        elif os.lstat(aside).st_nlink > 1:
            os.unlink(aside)


def finish(path: str, keep: int, now: float) -> None:
    """There is a new log: leave `keep` of the files that were set aside."""
    with contextlib.suppress(FileExistsError):  # the next rotation gives it its stamp
        _stamp_moved(path, now)
    remove_oldest(path, keep)


def _stamp_moved(path: str, now: float) -> None:
    """FileExistsError when this second's name is taken."""
    moved, stamped = f"{path}{_MOVED}", _stamped(path, now)
    if os.path.lexists(moved):
        if os.path.lexists(stamped):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), stamped)
        os.rename(moved, stamped)


def _stamped(path: str, now: float) -> str:
    """The name that a kubelet would give it."""
    return f"{path}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"


def remove_oldest(path: str, keep: int) -> None:
    """Leave `keep` files of the log that were set aside, the youngest ones."""
    found = _rotated(path)
    for entry in found[: max(0, len(found) - keep)]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry)


def _rotated(path: str) -> list[str]:
    """The paths of all that was set aside of a log, the oldest first."""
    directory, name = os.path.split(path)
    found = (entry for entry in os.listdir(directory) if entry.startswith(name))
    return [f"{directory}/{entry}" for entry in sorted(found) if _ROTATED.fullmatch(entry, len(name))]
