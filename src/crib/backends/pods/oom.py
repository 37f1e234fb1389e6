"""Whether the kernel ended a container for lack of memory.

A container's cgroup counts its kills (`oom_kill` of memory.events). systemd removes a scope as soon as it is
empty, often before anybody has read it; the monitor, which then files `oom` in the bundle, comes too late.
But with cgroup v2 the pod's counter has the kills of all below it, also of what is gone (kernel,
admin-guide/cgroup-v2, memory.events).

So the kills that were in no scope that anybody read are numbered. A container whose scope is gone, and whose
first process was killed, takes the first number that nobody has taken, and that came after its last sign of
life. As each takes one, containers that run out of memory in the same moment are all reported so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from crib.backends.bundle.bundles import BundleNote
from crib.host.cgroup_stats import StatsReader
from crib.model.ids import ContainerId
from crib.model.paths import Paths

_KILLED = 128 + 9


@dataclass(slots=True)
class _Slice:
    """The kills in one slice, which several pods may share."""

    read: int = 0
    """Those that ended scopes reported by themselves; they have no number."""
    last: int = 0
    """The last number of the latest look."""
    taken: set[int] = field(default_factory=set)
    live: dict[str, int] = field(default_factory=dict)
    """For each scope that has not ended, as far as is known: the last number that cannot be its own."""
    said: dict[str, bool] = field(default_factory=dict)
    """What was said of those that have: each is judged once."""

    def register(self, note: BundleNote) -> None:
        if note.cgroup not in self.said:
            self.live.setdefault(note.cgroup, self.first(note))

    def first(self, note: BundleNote) -> int:
        """The last number before the container was made."""
        return note.oom_kills - self.read

    def look(self, kills: int, there: Mapping[str, int]) -> None:
        """Of all kills in the slice, and of those in each scope that is there.

        Kills in a scope that is there are in its own file, so none of the numbers is its.
        """
        self.last = kills - self.read - sum(count for scope, count in there.items() if scope not in self.said)
        self.live.update((scope, self.last) for scope in there if scope in self.live)
        oldest = min(self.live.values(), default=0)
        self.taken = {number for number in self.taken if number > oldest}

    def judge(self, note: BundleNote, own: int | None, code: int) -> bool:
        """Of a scope that has ended, after a look that found `own` kills in it, or None when it was gone."""
        begin = self.live.pop(note.cgroup, self.first(note))
        if own is not None:
            self.read += own
            return own > 0
        if code != _KILLED:
            return False
        numbers = (number for number in range(begin + 1, self.last + 1) if number not in self.taken)
        number = next(numbers, None)
        if number is not None:
            self.taken.add(number)
        return number is not None


class OomKills:
    """Reads counters; its calls may come from several threads."""

    def __init__(self, paths: Paths, stats: StatsReader) -> None:
        self._paths = paths
        self._stats = stats
        self._lock = threading.Lock()
        self._slices: dict[str, _Slice] = {}

    def before(self, cgroup: str) -> int:
        """For the note of a container that will be there: kills that are none of its."""
        if not _is_scope(cgroup):
            return 0
        with self._lock:
            kills, there = self._look(os.path.dirname(cgroup))
        return kills - sum(there.values())

    def made(self, note: BundleNote) -> None:
        """The container is there, and has not been started: what was counted until now is none of its."""
        if _is_scope(note.cgroup):
            with self._lock:
                known = self._slice(note)
                known.live[note.cgroup] = max(known.first(note), known.last)

    def found(self, note: BundleNote) -> None:
        """It was made by an earlier daemon. While its scope is there, no kill that is counted is its own."""
        if _is_scope(note.cgroup):
            with self._lock:
                self._slice(note).register(note)
                self._look(os.path.dirname(note.cgroup))

    def ended(self, container: ContainerId, note: BundleNote | None, code: int) -> bool:
        """Whether the kernel killed in the container that ended with this code."""
        filed = os.path.exists(f"{self._paths.container(container)}/oom")
        if note is None:
            return filed
        if not _is_scope(note.cgroup):
            return filed or bool(self._stats.oom_kills(note.cgroup))
        with self._lock:
            known = self._slice(note)
            if note.cgroup not in known.said:
                _, there = self._look(os.path.dirname(note.cgroup))
                known.said[note.cgroup] = known.judge(note, there.get(note.cgroup), code) or filed
            return known.said[note.cgroup]

    def forget(self, cgroup: str) -> None:
        """The container of this cgroup is removed."""
        parent = os.path.dirname(cgroup)
        with self._lock:
            if known := self._slices.get(parent):
                known.live.pop(cgroup, None)
                known.said.pop(cgroup, None)
                if not (known.live or known.said):
                    del self._slices[parent]

    def _slice(self, note: BundleNote) -> _Slice:
        return self._slices.setdefault(os.path.dirname(note.cgroup), _Slice())

    def _look(self, parent: str) -> tuple[int, Mapping[str, int]]:
        """All kills in a slice, and those in each scope that is there, by its cgroup."""
        kills, children = self._stats.oom_kills_below(parent)
        there = {f"{parent}/{name}": count for name, count in children.items()}
        if parent in self._slices:
            self._slices[parent].look(kills, there)
        return kills, there


def _is_scope(cgroup: str) -> bool:
    return cgroup.endswith(".scope")
