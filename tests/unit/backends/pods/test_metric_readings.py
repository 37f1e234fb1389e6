"""From the files of cgroups to the samples of metrics, for both versions of cgroups."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest

from crib.backends.pods.usage import UsageReader
from crib.host.cgroup_stats import StatsReader
from crib.host.cgroups import CgroupLayout
from crib.model.ids import ContainerId
from crib.model.metric_families import FAMILIES
from crib.model.metrics import Metered, Of
from crib.model.paths import Paths
from crib.model.sandbox import Resources
from crib.model.stats import CgroupUsage
from tests.unit.metered import samples

CONTAINER = ContainerId("c" * 64)
BOX, CGROUP = "/pods/a/c", "/pods/a"
RELATIVE = ("container_fs_", "container_file_descriptors", "container_sockets", "container_ulimits_soft")
"""What is of this process or of this machine's disk."""

V1_MEMORY = "cache 1\nrss 2\nmapped_file 3\npgfault 4\npgmajfault 5\ninactive_file 6\n" + (
    "total_cache 4096\ntotal_rss 8192\ntotal_mapped_file 512\ntotal_swap 256\ntotal_pgfault 40\n"
    "total_pgmajfault 5\ntotal_inactive_file 1000\ntotal_active_file 7\n"
)
V1 = {
    "cpuacct/cpuacct.usage": "9500000000\n",
    "cpuacct/cpuacct.stat": "user 620\nsystem 330\n",
    "cpu/cpu.stat": "nr_periods 40\nnr_throttled 10\nthrottled_time 2500000000\n",
    "memory/memory.stat": V1_MEMORY,
    "memory/memory.usage_in_bytes": "20000\n",
    "memory/memory.max_usage_in_bytes": "30000\n",
    "memory/memory.failcnt": "3\n",
    "memory/memory.kmem.usage_in_bytes": "700\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "pids/pids.current": "5\n",
    "pids/pids.max": "max\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "900:7 Read 11\n900:7 Write 12\n900:7 Total 23\n"
    "Total 23\n",
    "blkio/blkio.throttle.io_serviced_recursive": "900:7 Read 1\n900:7 Write 2\n900:7 Total 3\nTotal 3\n",
    "hugetlb/hugetlb.2MB.usage_in_bytes": "2097152\n",
    "hugetlb/hugetlb.2MB.max_usage_in_bytes": "4194304\n",
}
PSI = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
V2 = {
    "cpu.stat": "usage_usec 9500000\nuser_usec 6200000\nsystem_usec 3300000\nnr_periods 40\n"
    "nr_throttled 10\nthrottled_usec 2500000\n",
    "cpu.pressure": PSI.format(8_000_000, 7_000_000),
    "memory.pressure": PSI.format(6_000_000, 5_000_000),
    "io.pressure": PSI.format(4_000_000, 3_000_000),
    "memory.stat": "anon 8192\nfile 4096\nkernel 700\nfile_mapped 512\ninactive_file 1000\nactive_file 7\n"
    "pgfault 40\npgmajfault 5\n",
    "memory.current": "20000\n",
    "memory.peak": "30000\n",
    "memory.swap.current": "256\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
    "io.stat": "900:7 rbytes=11 wbytes=12 rios=1 wios=2 dbytes=0 dios=0\n",
    "pids.current": "5\n",
    "pids.max": "max\n",
    "hugetlb.2MB.current": "2097152\n",
}
BOTH = {
    "container_cpu_usage_seconds_total": {("total",): 9},
    "container_cpu_user_seconds_total": {(): 6},
    "container_cpu_system_seconds_total": {(): 3},
    "container_cpu_cfs_periods_total": {(): 40},
    "container_cpu_cfs_throttled_periods_total": {(): 10},
    "container_cpu_cfs_throttled_seconds_total": {(): 2},
    "container_memory_cache": {(): 4096},
    "container_memory_rss": {(): 8192},
    "container_memory_kernel_usage": {(): 700},
    "container_memory_mapped_file": {(): 512},
    "container_memory_swap": {(): 256},
    "container_memory_failcnt": {(): 3},
    "container_memory_usage_bytes": {(): 20000},
    "container_memory_max_usage_bytes": {(): 30000},
    "container_memory_working_set_bytes": {(): 19000},
    "container_oom_events_total": {(): 2},
    "container_last_seen": {(): 100},
    "container_start_time_seconds": {(): 50},
}
"""Of a container and of a pod."""
OF_CONTAINERS = {
    "container_processes": {(): 1},
    "container_threads": {(): 5},
    "container_threads_max": {(): 0},
    "container_spec_cpu_period": {(): 100_000},
    "container_spec_cpu_quota": {(): 20_000},
    "container_spec_cpu_shares": {(): 512},
    "container_spec_memory_limit_bytes": {(): 1 << 20},
    "container_spec_memory_reservation_limit_bytes": {(): 4096},
    "container_spec_memory_swap_limit_bytes": {(): 0},
    "container_hugetlb_usage_bytes": {("2MB",): 2097152},
}
LIMITS = Resources(
    cpu_quota=20_000, cpu_shares=512, memory_limit_in_bytes=1 << 20, unified={"memory.min": "4096"}
)


def write(root: Path, files: Mapping[str, str], path: str) -> None:
    """Files of the cgroup at `path`; the names begin with the controller where each has a tree of its own."""
    for name, text in files.items():
        controller, _, file = name.rpartition("/")
        place = root / controller / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(text)


def reader(tmp_path: Path, version: str, *, without: str = "") -> UsageReader:
    """Over trees with a container, which is this process, and its pod."""
    files = {name: text for name, text in (V1 if version == "v1" else V2).items() if name != without}
    names = ("cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb")
    trees = {name: str(tmp_path / name) for name in names} if version == "v1" else {}
    write(tmp_path, files, BOX)
    write(tmp_path, files, CGROUP)
    write(tmp_path, {f"{'pids/' if trees else ''}cgroup.procs": f"{os.getpid()}\n"}, BOX)
    layout = CgroupLayout("v1" if trees else "v2", trees, None if trees else str(tmp_path), frozenset())
    (tmp_path / "data" / "containers").mkdir(parents=True)
    return UsageReader(Paths(str(tmp_path / "data"), str(tmp_path / "state")), StatsReader(layout))


def told(usage: CgroupUsage, of: tuple[Of, ...], **fields: object) -> dict[str, dict[tuple[str, ...], int]]:
    metered = Metered(at=100_000_000_000, started_at=50_000_000_000, cgroup=usage, **fields)  # type: ignore[arg-type]
    found: dict[str, dict[tuple[str, ...], int]] = {}
    for family, labels, value in samples(metered, [family for family in FAMILIES if family.of in of]):
        found.setdefault(family.name, {})[labels] = value
    return found


async def of_container(usages: UsageReader) -> dict[str, dict[tuple[str, ...], int]]:
    (usage,) = await usages.containers([(CONTAINER, BOX)], whole=True)
    return told(usage.cgroup, (Of.CONTAINER, Of.CGROUP), room=usage.room, limits=LIMITS)


def own(version: str) -> dict[str, dict[tuple[str, ...], int]]:
    """What the versions tell differently, of a container and of a pod."""
    device = "900:7"  # no such device is known to this machine
    io: dict[str, dict[tuple[str, ...], int]] = {
        "container_fs_reads_bytes_total": {(device,): 11},
        "container_fs_reads_total": {(device,): 1},
        "container_fs_writes_bytes_total": {(device,): 12},
        "container_fs_writes_total": {(device,): 2},
    }
    moved = {"Read": 11, "Write": 12, "Total" if version == "v1" else "Discard": 23 if version == "v1" else 0}
    io["container_blkio_device_usage_total"] = {(device, "900", "7", kind): n for kind, n in moved.items()}
    own_faults = (4, 5) if version == "v1" else (40, 5)
    io["container_memory_failures_total"] = {
        ("pgfault", "container"): own_faults[0],
        ("pgfault", "hierarchy"): 40,
        ("pgmajfault", "container"): own_faults[1],
        ("pgmajfault", "hierarchy"): 5,
    }
    if version == "v2":
        for name, some, full in (("cpu", 8, 7), ("memory", 6, 5), ("io", 4, 3)):
            io[f"container_pressure_{name}_waiting_seconds_total"] = {(): some}
            io[f"container_pressure_{name}_stalled_seconds_total"] = {(): full}
    return io


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_containers_files_become_the_samples_of_its_metrics(tmp_path: Path, version: str) -> None:
    found = await of_container(reader(tmp_path, version))
    here = {
        name: found.pop(name)
        for name in sorted(found)
        if name.startswith(RELATIVE) and name not in own(version)
    }
    peak = {"container_hugetlb_max_usage_bytes": {("2MB",): 4194304}} if version == "v1" else {}
    assert found == BOTH | OF_CONTAINERS | own(version) | peak
    space = os.statvfs(tmp_path)
    (((device,), size),) = here["container_fs_limit_bytes"].items()
    assert size == space.f_blocks * space.f_frsize
    assert here["container_fs_inodes_total"] == {(device,): space.f_files}
    assert here["container_ulimits_soft"] == {
        ("max_open_files",): resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    }
    assert here["container_file_descriptors"][()] > here["container_sockets"][()] >= 0


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_pods_files_become_the_samples_of_its_metrics(tmp_path: Path, version: str) -> None:
    (usage,) = await reader(tmp_path, version).pods([CGROUP], whole=True)
    assert told(usage, (Of.CGROUP,)) == BOTH | own(version)
    assert usage.path == CGROUP


@pytest.mark.parametrize(
    ("version", "file", "families"),
    [
        (
            "v1",
            "cpuacct/cpuacct.stat",
            {"container_cpu_user_seconds_total", "container_cpu_system_seconds_total"},
        ),
        ("v1", "memory/memory.kmem.usage_in_bytes", {"container_memory_kernel_usage"}),
        ("v1", "memory/memory.max_usage_in_bytes", {"container_memory_max_usage_bytes"}),
        ("v1", "memory/memory.oom_control", {"container_oom_events_total"}),
        ("v1", "pids/pids.current", {"container_threads", "container_threads_max"}),
        ("v2", "memory.peak", {"container_memory_max_usage_bytes"}),
        ("v2", "memory.swap.current", {"container_memory_swap"}),
        ("v2", "memory.events", {"container_memory_failcnt", "container_oom_events_total"}),
        ("v2", "hugetlb.2MB.current", {"container_hugetlb_usage_bytes"}),
    ],
)
async def test_what_the_kernel_does_not_tell_has_no_sample_and_is_never_0(
    tmp_path: Path, version: str, file: str, families: set[str]
) -> None:
    whole = await of_container(reader(tmp_path / "whole", version))
    scarce = await of_container(reader(tmp_path / "scarce", version, without=file))
    assert set(whole) - set(scarce) == families


async def test_a_cgroup_that_is_gone_has_no_samples_but_the_moment(tmp_path: Path) -> None:
    usages = reader(tmp_path, "v1")
    (usage,) = await usages.containers([(CONTAINER, "/pods/gone")], whole=True)
    assert set(told(usage.cgroup, (Of.CONTAINER, Of.CGROUP))) == {
        "container_last_seen",
        "container_start_time_seconds",
    }
