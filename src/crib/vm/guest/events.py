"""What happened in the guest, kept until the host has asked for it."""

from __future__ import annotations

import sys
import time

from crib.vm.guest.loop import Later, either

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crib.vm.guest.loop import Job

MOST_EVENTS = 256
"""Kept; of more the oldest are lost, and counted."""


class Events:
    """A list that only grows at its end, by cursor."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._end = 0
        self._kills: dict[str, int] = {}
        self._more = Later()

    def oom(self, container: str, cgroup: str, kills: int) -> None:
        """So many processes of a container were killed for memory, since its beginning."""
        new = kills - self._kills.get(container, 0)
        if new > 0:
            self._kills[container] = kills
            self._add({"oom": {"container_id": container, "cgroup": cgroup, "kills": new}})

    def forget(self, container: str) -> None:
        """The container is gone. What it told stays."""
        self._kills.pop(container, None)

    def log(self, line: str) -> None:
        """A line for whoever reads the guest's console."""
        print(f"crib: {line}", file=sys.stderr, flush=True)

    def read(self, cursor: int, wait: Later | None) -> Job:
        """What came after `cursor`. Waits until something has, or for `wait`."""
        while cursor >= self._end and not (wait is not None and wait.is_set):
            yield either(self._more, wait)
        first = self._end - len(self._events)
        lost = max(0, first - cursor)
        return {"events": self._events[max(0, cursor - first) :], "cursor": self._end, "lost": lost}

    def _add(self, event: dict[str, Any]) -> None:
        self._events.append({"at": time.time_ns(), **event})
        del self._events[:-MOST_EVENTS]
        self._end += 1
        more, self._more = self._more, Later()
        more.set()
