"""Commands that must be ended with all that they have started: a cgroup for each, below the container's.

A shim knows no such cgroup, so a command and what it has started by then are moved there as soon as its pid
is known. Whatever it starts later is born there. What had left its session and its parents in those
milliseconds is not found. Where the command is no process of this host, only the command itself can be ended.
"""

from __future__ import annotations

import contextlib
import os

from crib.host.cgroups import Cgroups

_ROUNDS = 5
"""How often processes are looked for: some may be forked while others are moved."""
_KILL_TIME = 10.0
_REMOVE_TIME = 0.1


class ContainedCommand:
    """The cgroup of one command, which may not be there."""

    def __init__(self, cgroups: Cgroups, container: str, name: str) -> None:
        self._cgroups = cgroups
        self._container = container
        self.path = f"{container}/{name}"
        self._is_there = False

    def contain(self, pid: int) -> bool:
        """Move it there, with what it has started; False where it cannot be, or has ended."""
        if pid <= 0 or pid not in self._cgroups.pids(self._container):
            return False
        self._cgroups.create(self.path, among_processes=True)
        self._is_there = True
        for _round in range(_ROUNDS):
            found = [one for one in self._cgroups.pids(self._container) if _belongs(one, pid)]
            for one in found:
                with contextlib.suppress(OSError):  # it has ended
                    self._cgroups.add_process(self.path, one)
            if not found:
                break
        return True

    async def kill(self) -> bool:
        """Whether all of it has died."""
        return not self._is_there or await self._cgroups.kill(self.path, _KILL_TIME)

    def bring_home(self) -> None:
        """The command has ended: what it left behind lives on in the container's own cgroup."""
        for _round in range(_ROUNDS if self._is_there else 0):
            pids = self._cgroups.pids(self.path)
            for pid in pids:
                with contextlib.suppress(OSError):  # it has ended, or the container's cgroup has gone
                    self._cgroups.add_process(self._container, pid)
            if not pids:
                return

    async def remove(self) -> None:
        """It goes with the container where that is not possible now."""
        if self._is_there:
            with contextlib.suppress(OSError):
                await self._cgroups.remove(self.path, timeout=_REMOVE_TIME)


def _belongs(pid: int, command: int) -> bool:
    """Whether a process is the command, of its session, or one that it has started by way of others."""
    with contextlib.suppress(OSError):
        if os.getsid(pid) == command:
            return True
    while pid > 1:
        if pid == command:
            return True
        pid = _parent(pid)
    return False


def _parent(pid: int) -> int:
    """0 for one that is gone (proc(5), the field behind the name and the state)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
