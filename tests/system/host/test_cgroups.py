"""Cgroups for real, in a group of our own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.host import processes
from crib.host.cgroup_figures import CgroupStats
from crib.host.cgroup_stats import For, StatsReader
from crib.host.cgroups import CgroupLayout, Cgroups, detect_layout

pytestmark = pytest.mark.root


@pytest.fixture
async def cgroups() -> AsyncIterator[Cgroups]:
    found = Cgroups(detect_layout())
    top = f"/crib-test-{os.getpid()}"
    yield found
    await found.kill(top, 10)
    await found.remove(top, 30)
    assert not found.exists(top)


@pytest.fixture
def path(cgroups: Cgroups) -> str:
    made = f"/crib-test-{os.getpid()}/pod/container"
    cgroups.create(made)
    return made


async def _joined(cgroups: Cgroups, path: str, script: str) -> processes.Child:
    """A shell that runs `script` once it is in the cgroup."""
    read_end, write_end = os.pipe()
    try:
        options = processes.SpawnOptions(stdin=read_end, new_session=True)
        child = processes.spawn(["sh", "-c", f"read go; {script}"], options)
    finally:
        os.close(read_end)
    cgroups.add_process(path, child.pid)
    os.write(write_end, b"go\n")
    os.close(write_end)
    await asyncio.sleep(0)
    return child


async def test_a_process_is_moved_into_every_tree(cgroups: Cgroups, path: str) -> None:
    child = await _joined(cgroups, path, "exec sleep 1000")
    assert cgroups.pids(path) == [child.pid]
    assert cgroups.pids(os.path.dirname(path)) == [child.pid]
    for controller in ("memory", "cpuset", "pids"):
        if controller in cgroups.layout.controllers or cgroups.layout.mode == "v2":
            name = "" if cgroups.layout.mode == "v2" else controller
            assert cgroups.own_path(name, str(child.pid)) == path
    assert await cgroups.kill(path)
    assert await child.wait(10) == -signal.SIGKILL


async def test_killing_ends_children_in_other_sessions_and_groups_below(cgroups: Cgroups, path: str) -> None:
    cgroups.create(f"{path}/below", among_processes=True)
    child = await _joined(cgroups, path, "setsid sleep 1000 & sleep 1000")
    other = await _joined(cgroups, f"{path}/below", "exec sleep 1000")
    assert await cgroups.kill(path, 10)
    assert cgroups.pids(path) == []
    assert await child.wait(10) == -signal.SIGKILL
    assert await other.wait(10) == -signal.SIGKILL


async def test_a_fork_bomb_is_killed(cgroups: Cgroups, path: str) -> None:
    cgroups.write(path, "pids.max", "40")
    child = await _joined(cgroups, path, "while :; do sh -c 'sleep 1 & sleep 1 &' & done 2>/dev/null")
    assert await cgroups.kill(path, 60)
    await child.wait(10)
    assert cgroups.pids(path) == []


async def test_a_v2_tree_is_made_filled_read_killed_and_removed(cgroups: Cgroups) -> None:
    if cgroups.layout.unified is None:
        pytest.skip("no cgroup v2 here")
    v2 = Cgroups(CgroupLayout("v2", {}, cgroups.layout.unified, cgroups.layout.unified_controllers))
    path = f"/crib-test-{os.getpid()}/v2"
    v2.create(f"{path}/below")
    child = await _joined(v2, f"{path}/below", "setsid sleep 1000 & sleep 1000")
    assert v2.own_path("", str(child.pid)) == f"{path}/below"
    stats = StatsReader(v2.layout).read(path)
    assert stats.cpu is not None
    for resource in (stats.cpu.pressure, stats.io_pressure):
        assert resource is not None or not Path(f"{cgroups.layout.unified}{path}/cpu.pressure").exists()
    assert v2._freeze(path, frozen=True)
    assert await v2.kill(path, 10)
    assert await child.wait(10) == -signal.SIGKILL
    await v2.remove(path, 30)
    assert not v2.exists(path)


async def test_a_frozen_cgroup_is_killed(cgroups: Cgroups, path: str) -> None:
    child = await _joined(cgroups, path, "exec sleep 1000")
    assert cgroups._freeze(path, frozen=True)
    assert await cgroups.kill(path, 10)
    assert await child.wait(10) == -signal.SIGKILL


async def test_only_an_empty_cgroup_is_removed_at_once_and_it_was_shown_to_nobody(
    cgroups: Cgroups, path: str
) -> None:
    own = f"{path}/exec"
    before = os.umask(0o077)  # the daemon's own
    try:
        cgroups.create(own, among_processes=True)
    finally:
        os.umask(before)
    assert {os.stat(directory).st_mode & 0o777 for directory in cgroups.directories(own)} == {0o700}
    child = await _joined(cgroups, own, "exec sleep 1000")
    assert not cgroups.remove_at_once(own)
    assert all(os.path.isdir(directory) for directory in cgroups.directories(own))
    assert await cgroups.kill(own)
    await child.wait(10)
    await cgroups.remove(own, 30)
    cgroups.create(own, among_processes=True)
    assert cgroups.remove_at_once(own)
    assert not cgroups.exists(own)


async def test_a_busy_cgroup_is_named_after_the_time_limit(cgroups: Cgroups, path: str) -> None:
    child = await _joined(cgroups, path, "exec sleep 1000")
    with pytest.raises(OSError) as caught:
        await cgroups.remove(path, 0.05)
    assert path in str(caught.value.filename)
    assert await cgroups.kill(path)
    await child.wait(10)
    await cgroups.remove(path, 30)
    assert not cgroups.exists(path)
    await cgroups.remove(path)


async def test_a_cgroup_that_was_read_is_removed_all_the_same_and_another_of_its_name_is_read_anew(
    cgroups: Cgroups, path: str
) -> None:
    reader = StatsReader(cgroups.layout)
    child = await _joined(cgroups, path, "exec sleep 1000")
    assert reader.read(path, processes=True).processes == (child.pid,)
    assert await cgroups.kill(path, 10)
    await child.wait(10)
    await cgroups.remove(path, 30)
    assert reader.read(path, processes=True) == CgroupStats(), "its files are still open"
    cgroups.create(path)
    assert reader.read(path, processes=True).processes == ()
    child = await _joined(cgroups, path, "exec sleep 1000")
    try:
        assert reader.read(path, processes=True).processes == (child.pid,)
    finally:
        assert await cgroups.kill(path, 10)
        await child.wait(10)
        assert not reader.close_old(0.0)


async def test_numbers_are_read_from_a_working_cgroup(cgroups: Cgroups, path: str) -> None:
    cgroups.write(path, "memory.limit_in_bytes" if cgroups.layout.mode != "v2" else "memory.max", "67108864")
    reader = StatsReader(cgroups.layout)
    before = reader.read(path)  # while nothing runs there: it may be done before the next look
    child = await _joined(
        cgroups, path, "head -c 20000000 /dev/zero | tail -c 10000000 >/dev/null; kill -STOP $$"
    )
    assert await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WSTOPPED) is not None
    plain, stats = reader.read(path).memory, reader.read(path, For.METRICS, processes=True)
    assert plain is not None
    assert plain.limit == 67108864
    assert stats.cpu is not None
    assert stats.cpu.usage > (0 if before.cpu is None else before.cpu.usage)
    assert (stats.threads, stats.processes) == (1, (child.pid,))
    assert stats.memory is not None
    assert stats.memory.page_faults
    assert stats.memory.working_set is not None
    assert 0 < stats.memory.working_set <= stats.memory.usage
    assert stats.parts is not None
    assert stats.parts.oom_kills == reader.oom_kills(path) == 0
    assert stats.parts.peak is None or stats.parts.peak >= 10_000_000
    assert await cgroups.kill(path)
    await child.wait(10)
    await cgroups.remove(path, 30)
    assert reader.read(path, For.METRICS, processes=True) == CgroupStats()


async def test_an_oom_kill_is_counted(cgroups: Cgroups, path: str) -> None:
    cgroups.write(path, "memory.limit_in_bytes" if cgroups.layout.mode != "v2" else "memory.max", "4194304")
    for key in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
        with contextlib.suppress(OSError):  # not every kernel accounts for swap
            cgroups.write(path, key, "4194304" if key.startswith("memory.memsw") else "0")
    child = await _joined(cgroups, path, "head -c 100000000 /dev/zero | tail -c 50000000 >/dev/null")
    await child.wait(60)
    assert (StatsReader(cgroups.layout).oom_kills(path) or 0) >= 1
