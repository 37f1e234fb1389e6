"""Waits until processes run the programs that they were made for.

The kernel does not report an execve(2). But a process that becomes another program closes the file of the
previous one, and inotify(7) reports that. So that wakes us, and we look at the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Iterator

from crib.host import libc
from crib.host.pidfds import awaits_program

_CLOSE = 0x8 | 0x10  # IN_CLOSE_WRITE, IN_CLOSE_NOWRITE
_BUFFER = 65536
_LOOK_AGAIN = 0.01
"""Seconds after which a process is looked at in any case: others may have the same file open."""


class Executions:
    """One inotify descriptor for all; to close one takes the kernel up to 15 ms."""

    def __init__(self) -> None:
        self._fd = -1
        self._watches: Counter[int] = Counter()
        self._woken: asyncio.Future[None] | None = None

    @contextlib.contextmanager
    def watching(self, pid: int) -> Iterator[None]:
        """Around what has the process call execve, and the waiting for it. One that is gone is no fault."""
        watch = self._add(pid)
        try:
            yield
        finally:
            if watch is not None:
                self._drop(watch)

    async def wait(self, pid: int, started: int, timeout: float) -> None:
        """Until the process runs its program or has ended; TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while awaits_program(pid, started):
                if self._woken is None:
                    self._woken = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._woken], timeout=_LOOK_AGAIN)

    def close(self) -> None:
        """Close the descriptor. Callers that still wait fall back to polling."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._watches.clear()

    def _add(self, pid: int) -> int | None:
        try:
            if self._fd < 0:
                self._fd = libc.inotify_init()
                asyncio.get_running_loop().add_reader(self._fd, self._wake)
            watch = libc.inotify_add_watch(self._fd, f"/proc/{pid}/exe", _CLOSE)
        except OSError:
            # It has ended, or the kernel has no instance or watch left for us (fs.inotify.max_user_instances
            # counts those of all of the node's root processes): looking again does as well.
            return None
        self._watches[watch] += 1  # a file that several run is one watch
        return watch

    def _drop(self, watch: int) -> None:
        self._watches[watch] -= 1
        if self._watches[watch] <= 0:
            del self._watches[watch]
            with contextlib.suppress(OSError):  # the file may be gone, and the watch with it
                libc.inotify_rm_watch(self._fd, watch)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, _BUFFER)
        if self._woken is not None:
            self._woken.set_result(None)
            self._woken = None
