"""What the kernel logs when it kills a process for want of memory (mm/oom_kill.c).

    oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/a,task_memcg=/a/b,task=sh,pid=5,uid=0
    Memory cgroup out of memory: Killed process 5 (sh) total-vm:1024kB, anon-rss:512kB, …

With `global_oom` in the place of `oom_memcg=` the whole machine was out of memory. The first line is left out
when there are many kills (it is rate-limited); the second one has no cgroup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

_KILL = re.compile(
    r"oom-kill:constraint=\w+,.*?(?:,oom_memcg=(?P<limit>.*?)|,global_oom),task_memcg=(?P<task>.*),"
    r"task=(?P<name>.*),pid=(?P<pid>\d+),uid=\d+"
)
_KILLED = re.compile(
    r"(?:Memory cgroup out|Out) of memory: Killed process (?P<pid>\d+) .*?\banon-rss:(?P<rss>\d+)kB"
)


@dataclass(frozen=True, slots=True)
class LoggedKill:
    """One kill."""

    cgroup: str
    """That the process was in."""
    limit_cgroup: str
    """Whose limit was hit; empty: the whole machine was out of memory."""
    pid: int
    """In the first pid namespace."""
    process: str
    """The process's name for itself, up to 15 bytes (proc_pid_comm(5))."""
    memory: int = 0
    """Bytes of its own that it had in memory; 0 where the log does not say."""


def parse_kills(lines: Iterable[str]) -> list[LoggedKill]:
    """The kills in the lines of a kernel log, in their order."""
    found: dict[int, LoggedKill] = {}
    order: list[LoggedKill] = []
    for line in lines:
        if match := _KILL.match(line):
            name, limit = match["name"], match["limit"] or ""
            kill = LoggedKill(match["task"], limit, int(match["pid"]), name)
            found[kill.pid] = kill
            order.append(kill)
        elif (match := _KILLED.match(line)) and (known := found.pop(int(match["pid"]), None)):
            place = max(number for number, one in enumerate(order) if one is known)
            order[place] = replace(known, memory=int(match["rss"]) << 10)
    return order
