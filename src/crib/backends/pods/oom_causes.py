"""Whose limit was hit when the kernel killed in a container, and which process it killed.

The kernel's log says both. Where that cannot be read, or left the kill out, the counters of the cgroups tell
the limit, in most cases: the lowest cgroup that has had too little.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from crib.host.kernel_log import read_kernel_log
from crib.host.memory_limits import MemoryLimits
from crib.model.ends import OomKill, OomLevel
from crib.wire.oom_log import LoggedKill, parse_kills

_WORD = "oom-kill:", "Memory cgroup out of memory:", "Out of memory:"


class OomCauses:
    """Blocks: for a thread. Takes some ms, as it reads the whole log of the kernel."""

    def __init__(self, limits: MemoryLimits, log: Callable[[], Iterable[str]] = read_kernel_log) -> None:
        self._limits = limits
        self._log = log

    def find(self, cgroup: str, pod: str) -> OomKill:
        """The latest kill in a container's cgroup; `pod` is the cgroup of its pod."""
        kills = parse_kills(line for line in self._log() if line.startswith(_WORD))
        own = [kill for kill in kills if _is_in(kill.cgroup, cgroup)]
        if own:
            return self._as_logged(own[-1], cgroup, pod)
        return self._as_counted(cgroup, pod)

    def _as_logged(self, kill: LoggedKill, cgroup: str, pod: str) -> OomKill:
        # Where our cgroups are below somebody else's, the kernel's paths begin with those.
        above = kill.cgroup[: kill.cgroup.rindex(cgroup)]
        limited = kill.limit_cgroup.removeprefix(above) if kill.limit_cgroup else ""
        return OomKill(
            level=_level(limited, cgroup, pod),
            cgroup=limited,
            limit=self._limits.limit(limited) if limited else None,
            pid=kill.pid,
            process=kill.process,
            memory=kill.memory,
            is_logged=True,
        )

    def _as_counted(self, cgroup: str, pod: str) -> OomKill:
        if self._limits.hits(cgroup) is None:
            return OomKill()
        path = cgroup
        while path != "/":
            if self._limits.hits(path) and (limit := self._limits.limit(path)) is not None:
                return OomKill(level=_level(path, cgroup, pod), cgroup=path, limit=limit)
            path = os.path.dirname(path)
        return OomKill(level=OomLevel.HOST)


def _is_in(path: str, cgroup: str) -> bool:
    """Whether a path of the kernel's is that cgroup, or one below it; an id in it makes it the only one."""
    return path.endswith(cgroup) or f"{cgroup}/" in path


def _level(limited: str, cgroup: str, pod: str) -> OomLevel:
    if not limited:
        return OomLevel.HOST
    if limited == cgroup or limited.startswith(f"{cgroup}/"):
        return OomLevel.CONTAINER
    return OomLevel.POD if limited == pod else OomLevel.ANCESTOR
