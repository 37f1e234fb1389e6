"""Having the monitor of a container reopen its log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat

from crib.backends.oci.conmon import tell
from crib.backends.streams.logs import log_job
from crib.host.inotify import MOVED_TO, DirectoryWatcher
from crib.host.threads import FOREIGN
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, WrongState
from crib.wire.conmon import REOPEN_LOG

_REOPEN_TIME = 5.0
"""Seconds for the monitor to make the new file."""


async def reopen(record: ContainerRecord, bundle: str) -> None:
    """Returns once the new file is in place. OSError (`Overdue`) when the log's directory does not answer."""
    what, path = f"reopening the log of container {record.id}", record.log_path
    directory, name = os.path.split(path)

    def look(watcher: DirectoryWatcher) -> None:
        watcher.add(directory, MOVED_TO)
        # A known directory may be cached, so its server is not asked. We wait for that, not the monitor.
        if problem := _problem(path):
            raise WrongState(f"{what}: {problem}")

    with DirectoryWatcher([]) as watcher:
        await FOREIGN.run(log_job("looking for", path, record.sandbox_id), look, watcher)
        if not await tell(bundle, REOPEN_LOG):
            raise WrongState(f"{what}: its monitor has ended")
        try:
            async with asyncio.timeout(_REOPEN_TIME):
                async for event in watcher:
                    if event.name == name or event.lost:
                        return
        except TimeoutError:
            raise Broken(f"{what}: the monitor made no new {path}") from None


def _problem(path: str) -> str:
    """What would end the monitor, and the container with it, or have it hang or write elsewhere; or nothing.

    conmon writes to LOG.tmp, through a link and however long a FIFO waits for its reader, and renames that.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            return f"{path} is a directory"
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(f"{path}.tmp").st_mode):
            return f"{path}.tmp exists and is not a regular file"
    return ""
