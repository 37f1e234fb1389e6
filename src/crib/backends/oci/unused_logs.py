"""Takes away the log of a container that was never made.

conmon makes it before the runtime says no. A kubelet that finds no container counts the files `N.log` as its
restarts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat

from crib.backends.oci.logs import log_job
from crib.host.threads import FOREIGN

_log = logging.getLogger(__name__)

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def remove_unused(path: str, pod: str) -> None:
    """Remove an empty file; anything else stays. What fails, or takes too long, is logged and is no error."""
    try:
        await FOREIGN.run(log_job("removing", path, pod), _remove_empty, path)
    except OSError as error:
        _log.warning("the unused log %s stays: %s", path, error)


def _remove_empty(path: str) -> None:
    """The pod may write to its log directory, so no link of its making is followed."""
    directory, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError):
        parent = os.open(directory, _DIRECTORY)
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_size == 0 and found.st_nlink == 1:
                os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)
