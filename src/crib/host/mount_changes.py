"""Tells of mounts and unmounts in the mount namespace of this process (proc(5), /proc/PID/mountinfo)."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable


class MountChanges:
    """Calls `changed` at the first change after `listen`, and not again before the next `listen`."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        # A change is told as EPOLLPRI. The table can also be read at any time, of which a reader of asyncio's
        # would be told without end: so it is watched by a descriptor that is asked for nothing else.
        self._changes = select.epoll()
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._changes.register(self._table, select.EPOLLPRI | select.EPOLLET)
        except OSError:
            os.close(self._table)
            raise

    def listen(self) -> None:
        """From now on; changes from before are not told any more."""
        self._changes.poll(0)
        asyncio.get_running_loop().add_reader(self._changes, self._tell)

    def close(self) -> None:
        """Tell nothing more."""
        asyncio.get_running_loop().remove_reader(self._changes)
        self._changes.close()
        os.close(self._table)

    def _tell(self) -> None:
        asyncio.get_running_loop().remove_reader(self._changes)
        self._changed()
