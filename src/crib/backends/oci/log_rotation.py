"""Setting a container's log aside when it has grown too long, as a kubelet does it.

The names are a kubelet's too (`LOG.YYYYMMDD-HHMMSS`), so that either of both removes what the other has left.
conmon's own bound (`--log-size-max`) is not used: it throws away all that was written before.
"""

from __future__ import annotations

import contextlib
import os
import re
import time

_ROTATED = re.compile(r"\.\d{8}-\d{6}(?:\.gz)?")


def is_longer(path: str, size: int) -> bool:
    """Whether the log has more than `size` bytes; not when somebody else has just moved it away."""
    try:
        return os.stat(path).st_size > size
    except FileNotFoundError:
        return False


def set_aside(path: str, now: float) -> str:
    """Rename the log; its new path, or "" when this second's name is taken: it is not time yet."""
    aside = f"{path}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"
    if os.path.lexists(aside):
        return ""
    os.rename(path, aside)
    return aside


def put_back(path: str, aside: str) -> None:
    """Undo `set_aside`, unless there is a new log already."""
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.link(aside, path)
        os.unlink(aside)


def remove_oldest(path: str, keep: int) -> None:
    """Leave `keep` files of the log that were set aside, the youngest ones."""
    directory, name = os.path.split(path)
    found = [entry for entry in os.listdir(directory) if entry.startswith(name)]
    rotated = sorted(entry for entry in found if _ROTATED.fullmatch(entry, len(name)))
    for entry in rotated[: max(0, len(rotated) - keep)]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory}/{entry}")
