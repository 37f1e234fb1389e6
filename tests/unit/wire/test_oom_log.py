"""Kills for want of memory, as kernels have logged them."""

from __future__ import annotations

from crib.wire.oom_log import LoggedKill, parse_kills

# Linux 6.18, cgroup v1
CONTAINER = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c1,mems_allowed=0,"
    "oom_memcg=/crib/pod/c1,task_memcg=/crib/pod/c1,task=tail,pid=812,uid=0"
)
KILLED = (
    "Memory cgroup out of memory: Killed process 812 (tail) total-vm:200000kB, anon-rss:15800kB, "
    "file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:72kB oom_score_adj:0"
)
HOST = (
    "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
    "task_memcg=/kubepods.slice/pod1.slice/crib-c2.scope,task=a,b (x),pid=7,uid=1000"
)


def test_a_kill_has_its_cgroups_and_its_process() -> None:
    assert parse_kills([CONTAINER, "  rss 5", KILLED]) == [
        LoggedKill("/crib/pod/c1", "/crib/pod/c1", 812, "tail", 15800 << 10)
    ]


def test_a_machine_without_memory_has_no_cgroup_whose_limit_was_hit() -> None:
    assert parse_kills([HOST]) == [LoggedKill("/kubepods.slice/pod1.slice/crib-c2.scope", "", 7, "a,b (x)")]


def test_lines_of_several_kills_are_told_apart_by_the_pid() -> None:
    other = KILLED.replace("812", "813").replace("Memory cgroup out", "Out")
    second = CONTAINER.replace("812", "813")
    kills = parse_kills([CONTAINER, second, other, KILLED, KILLED, "oom-kill:nonsense", "anything"])
    assert [(kill.pid, kill.memory > 0) for kill in kills] == [(812, True), (813, True)]


def test_a_killed_process_without_the_first_line_belongs_to_no_cgroup() -> None:
    assert parse_kills([KILLED]) == []
