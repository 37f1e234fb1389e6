"""Notices monitors that end before they have filed an exit: nobody else would tell of their containers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from crib.backends.oci.bundles import is_alive
from crib.host.pidfds import open_pidfd
from crib.model.ids import ContainerId
from crib.model.sandbox import ProcessIdentity


class MonitorDeaths:
    """Holds a pidfd for each running container's monitor and calls `ended` when that process has gone."""

    def __init__(self, ended: Callable[[ContainerId], None]) -> None:
        self._ended = ended
        self._watched: dict[ContainerId, int] = {}

    def watch(self, container: ContainerId, monitor: ProcessIdentity) -> None:
        """Watch until it ends. One that is gone already is told of at once; twice watched is watched once."""
        if container in self._watched:
            return
        try:
            pidfd = open_pidfd(monitor.pid)
        except ProcessLookupError:
            self._ended(container)
            return
        if not is_alive(monitor):  # the pid is another process's by now
            os.close(pidfd)
            self._ended(container)
            return
        self._watched[container] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._wake, container)

    def close(self) -> None:
        """Watch nothing any more."""
        for container in tuple(self._watched):
            self._forget(container)

    def _wake(self, container: ContainerId) -> None:
        self._forget(container)
        self._ended(container)

    def _forget(self, container: ContainerId) -> None:
        pidfd = self._watched.pop(container)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
