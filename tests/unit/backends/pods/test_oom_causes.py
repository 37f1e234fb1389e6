"""Whose limit was hit, by the kernel's log, and by the counters of cgroups v1 and v2 without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crib.backends.pods.oom_causes import OomCauses
from crib.host.cgroups import CgroupLayout
from crib.host.memory_limits import MemoryLimits
from crib.model.ends import OomKill, OomLevel

POD = "/kubepods/burstable/pod1"
BOX = f"{POD}/c1"
MIB = 1 << 20


class Node:
    """A tree of cgroups as files, of either version."""

    def __init__(self, top: Path, version: Any) -> None:
        self._top, self.version = top, version
        for path in ("/kubepods", "/kubepods/burstable", POD, BOX):
            self.set(path, hits=0, limit=None)

    def set(self, path: str, *, hits: int, limit: int | None) -> None:
        directory = Path(f"{self._top}{path}")
        directory.mkdir(parents=True, exist_ok=True)
        if self.version == "v2":
            (directory / "memory.events.local").write_text(f"low 0\nmax 9\noom {hits}\noom_kill 1\n")
            (directory / "memory.max").write_text("max\n" if limit is None else f"{limit}\n")
        else:
            (directory / "memory.failcnt").write_text(f"{hits}\n")
            unlimited = 9223372036854771712
            (directory / "memory.limit_in_bytes").write_text(f"{limit or unlimited}\n")

    def causes(self, log: Sequence[str] = ()) -> OomCauses:
        root, memory = str(self._top), frozenset({"memory"})
        unified, controllers = (root, {}) if self.version == "v2" else ("", {"memory": root})
        return OomCauses(MemoryLimits(CgroupLayout(self.version, controllers, unified, memory)), lambda: log)


@pytest.fixture(params=["v1", "v2"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    return Node(tmp_path, request.param)


def line(limited: str, task: str = BOX) -> str:
    which = f"oom_memcg={limited}" if limited else "global_oom"
    return f"oom-kill:constraint=X,nodemask=(null),cpuset=c,{which},task_memcg={task},task=sh,pid=5,uid=0"


@pytest.mark.parametrize(
    ("limited", "level"),
    [
        (BOX, OomLevel.CONTAINER),
        (f"{BOX}/inner", OomLevel.CONTAINER),
        (POD, OomLevel.POD),
        ("/kubepods", OomLevel.ANCESTOR),
        ("", OomLevel.HOST),
    ],
)
def test_the_kernels_log_says_whose_limit_was_hit(node: Node, limited: str, level: OomLevel) -> None:
    if limited:
        node.set(limited, hits=0, limit=64 * MIB)
    found = node.causes(["something else", line(limited)]).find(BOX, POD)
    limit = 64 * MIB if limited else None
    assert found == OomKill(level, limited, limit, 5, "sh", is_logged=True)


def test_kills_of_other_containers_in_the_log_are_not_its_own(node: Node) -> None:
    node.set(BOX, hits=2, limit=8 * MIB)
    found = node.causes([line(POD, f"{POD}/c10"), line("", "/c1")]).find(BOX, POD)
    assert found == OomKill(OomLevel.CONTAINER, BOX, 8 * MIB)


def test_paths_of_a_kernel_that_has_us_below_another_cgroup_are_ours(node: Node) -> None:
    node.set(POD, hits=0, limit=MIB)
    found = node.causes([line(f"/docker/abc{POD}", f"/docker/abc{BOX}")]).find(BOX, POD)
    assert (found.level, found.cgroup, found.limit) == (OomLevel.POD, POD, MIB)


@pytest.mark.parametrize(
    ("path", "level"),
    [(BOX, OomLevel.CONTAINER), (POD, OomLevel.POD), ("/kubepods", OomLevel.ANCESTOR)],
)
def test_without_the_log_the_lowest_limit_that_was_hit_counts(node: Node, path: str, level: OomLevel) -> None:
    node.set(path, hits=1, limit=MIB)
    if path != "/kubepods":
        node.set("/kubepods", hits=7, limit=9 * MIB)
    assert node.causes().find(BOX, POD) == OomKill(level, path, MIB)


def test_where_no_limit_was_hit_the_machine_was_out_of_memory(node: Node) -> None:
    assert node.causes().find(BOX, POD) == OomKill(OomLevel.HOST)


def test_of_a_cgroup_that_is_gone_nothing_is_known(node: Node) -> None:
    assert node.causes().find(f"{POD}/gone", POD) == OomKill()
