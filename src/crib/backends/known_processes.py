"""Processes that records name by pid and start time: whether they live, and word when one ends.

Such as monitors and the infra processes of pods, whose end nobody else reports.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Generic, TypeVar

from crib.host.files import read_small
from crib.host.kept_descriptors import moved_up
from crib.host.pidfds import is_running, open_pidfd, start_time
from crib.model.ids import ContainerId, SandboxId
from crib.model.sandbox import ProcessIdentity

Owner = TypeVar("Owner", ContainerId, SandboxId)


def identity(pid: int) -> ProcessIdentity | None:
    """The pid with its start time; None when there is no such process."""
    started = start_time(pid)
    return None if started is None else ProcessIdentity(pid, started)


def is_alive(process: ProcessIdentity | None) -> bool:
    """Whether exactly that process is still there and has not ended."""
    return process is not None and is_running(process.pid, process.start_time)


def read_pid(path: str) -> int:
    """The number in a pid file."""
    return int(read_small(path, 32))


class Deaths(Generic[Owner]):
    """Holds a pidfd for one process of each owner and calls `ended` when that process has gone."""

    def __init__(self, ended: Callable[[Owner], None]) -> None:
        self._ended: Callable[[Owner], None] = ended
        self._watched: dict[Owner, int] = {}

    def watch(self, owner: Owner, process: ProcessIdentity) -> None:
        """Watch until it ends. One that has already gone is reported at once; watching twice counts once."""
        if owner in self._watched:
            return
        try:
            pidfd = moved_up(open_pidfd(process.pid))
        except ProcessLookupError:
            self._ended(owner)
            return
        try:
            alive = is_alive(process)
        except OSError:
            os.close(pidfd)
            raise
        if not alive:  # the pid is another process's by now
            os.close(pidfd)
            self._ended(owner)
            return
        self._watched[owner] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._wake, owner)

    def watches(self, owner: Owner) -> bool:
        """Whether it is watched, and has not ended."""
        return owner in self._watched

    def forget(self, owner: Owner) -> None:
        """Watch it no more; safe to repeat."""
        pidfd = self._watched.pop(owner, None)
        if pidfd is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)

    def close(self) -> None:
        """Watch nothing any more."""
        for owner in tuple(self._watched):
            self.forget(owner)

    def _wake(self, owner: Owner) -> None:
        self.forget(owner)
        self._ended(owner)
