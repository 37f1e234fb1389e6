"""Whether the kernel ended a container for want of memory.

A container's cgroup counts its kills (`oom_kill` of memory.events). systemd removes a scope as soon as it is
empty, often before anybody has read it; conmon, which then files `oom` in the bundle, comes too late as well.
But with cgroup v2 the pod's counter has the kills of all below it, also of what is gone (kernel,
admin-guide/cgroup-v2, memory.events). Those that are not of a cgroup that is there, were not counted when the
container was made, and are not of a container that ended since, are its own.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from crib.backends.bundle.bundles import BundleNote
from crib.host.cgroup_stats import StatsReader
from crib.model.ids import ContainerId
from crib.model.paths import Paths

_KILLED = 128 + 9


@dataclass(slots=True)
class _Pod:
    """What is told for of its counter, and what was said of its containers: each is judged once."""

    told: int = 0
    said: dict[ContainerId, bool] = field(default_factory=dict)


class OomKills:
    """Reads counters; its calls may come from several threads."""

    def __init__(self, paths: Paths, stats: StatsReader) -> None:
        self._paths = paths
        self._stats = stats
        self._lock = threading.Lock()
        self._pods: dict[str, _Pod] = {}

    def before(self, cgroup: str) -> int:
        """For the note of a container that will be there: kills that are none of its."""
        return self._stats.oom_kills_of_gone(os.path.dirname(cgroup)) if _is_scope(cgroup) else 0

    def ended(self, container: ContainerId, note: BundleNote | None, code: int) -> bool:
        """Whether the kernel killed in the container that ended with this code."""
        filed = os.path.exists(f"{self._paths.container(container)}/oom")
        if note is None:
            return filed
        if not _is_scope(note.cgroup):
            return filed or bool(self._stats.oom_kills(note.cgroup))
        with self._lock:
            pod = self._pods.setdefault(os.path.dirname(note.cgroup), _Pod())
            if container not in pod.said:
                pod.said[container] = self._judge(pod, note, code) or filed
            return pod.said[container]

    def _judge(self, pod: _Pod, note: BundleNote, code: int) -> bool:
        own = self._stats.oom_kills(note.cgroup)
        gone = self._stats.oom_kills_of_gone(os.path.dirname(note.cgroup))
        new = gone > max(pod.told, note.oom_kills)
        pod.told = max(pod.told, gone + (own or 0))
        return own > 0 if own is not None else new and code == _KILLED

    def forget(self, container: ContainerId, cgroup: str) -> None:
        """The container is removed."""
        with self._lock:
            if pod := self._pods.get(os.path.dirname(cgroup)):
                pod.said.pop(container, None)

    def forget_pod(self, cgroup: str) -> None:
        """The pod is."""
        with self._lock:
            self._pods.pop(cgroup, None)


def _is_scope(cgroup: str) -> bool:
    return cgroup.endswith(".scope")
