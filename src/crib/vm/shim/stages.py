"""When what happened on a VM's way from a program's start to a pod that is ready."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator


class Stages:
    """Of one boot: `shim`, `virtiofsd`, `qemu`, `kernel`, `init`, `agent` and `configure`, by name."""

    def __init__(self) -> None:
        self._began: dict[str, int] = {}
        self._ended: dict[str, int] = {}

    def begin(self, name: str, at: int | None = None) -> None:
        """It begins now, or at a time in nanoseconds since the epoch."""
        self._began[name] = time.time_ns() if at is None else at

    def end(self, name: str, at: int | None = None) -> None:
        """It ends."""
        self._ended[name] = time.time_ns() if at is None else at

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """While this lasts."""
        self.begin(name)
        try:
            yield
        finally:
            self.end(name)

    def booted(self, greeted: int, ready: int, marks: tuple[int, int]) -> None:
        """What the guest says of itself: the ends of `kernel` and `init`, on a clock of its own.

        `greeted` is when the agent was heard of, in nanoseconds since the epoch, which it was `ready` for on
        the guest's clock: that began with the guest's kernel.
        """
        start = greeted - ready
        self.end("qemu", start)
        for name, begin, end in zip(("kernel", "init", "agent"), (0, *marks), (*marks, ready), strict=False):
            self.begin(name, start + begin)
            self.end(name, start + end)

    @property
    def reached(self) -> str:
        """The last that has begun."""
        return max(self._began, key=lambda name: self._began[name], default="shim")

    def document(self) -> str:
        """JSON: a list of `{"name", "began", "ended"}` of those that have ended, in the order of their
        beginnings.
        """
        ended = sorted((self._began[name], name) for name in self._ended if name in self._began)
        return json.dumps([{"name": name, "began": at, "ended": self._ended[name]} for at, name in ended])


def process_began() -> int:
    """When this process began, in nanoseconds since the epoch: its fork is later than its program's start."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    since_boot = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return time.time_ns() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - since_boot)
