"""Numbers of cgroups, from files as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.host.cgroup_figures import CgroupStats, CpuStats, MemoryDetails, MemoryStats
from crib.host.cgroup_files import (
    DeviceStats,
    PressureLine,
    PressureStats,
    huge_page_sizes,
)
from crib.host.cgroup_stats import For, StatsReader
from crib.host.cgroups import CgroupLayout
from crib.host.kept_files import OpenFiles


def _write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


V1_STAT = """cache 5
rss 1
inactive_file 1
hierarchical_memory_limit 9437184
total_cache 4096
total_rss 8192
total_swap 12288
total_pgfault 77
total_pgmajfault 3
total_inactive_file 1000
total_active_file 5
"""


def _v1(tmp_path: Path) -> StatsReader:
    trees = {name: str(tmp_path / name) for name in ("cpuacct", "cpu", "memory", "pids", "blkio")}
    return StatsReader(CgroupLayout("v1", trees, None, frozenset()))


def test_v1_numbers(tmp_path: Path) -> None:
    _write(tmp_path / "cpuacct/a", cpuacct__usage="123456789\n")
    _write(tmp_path / "pids/a", pids__current="4\n")
    _write(
        tmp_path / "memory/a",
        memory__stat=V1_STAT,
        memory__usage_in_bytes="20000\n",
        memory__limit_in_bytes="67108864\n",
        memory__memsw__limit_in_bytes="100663296\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    )
    memory = MemoryStats(
        usage=20000,
        inactive_file=1000,
        rss=8192,
        page_faults=77,
        major_page_faults=3,
        limit=67108864,
        swap_usage=12288,
        swap_limit=33554432,
    )
    assert memory.working_set == 19000
    assert _v1(tmp_path).read("/a") == CgroupStats(cpu=CpuStats(123456789), memory=memory)
    assert _v1(tmp_path).oom_kills("/a") == 2
    assert _v1(tmp_path).oom_kills("/gone") is None


def test_v1_without_a_limit_of_its_own_and_with_less_usage_than_cache(tmp_path: Path) -> None:
    _write(
        tmp_path / "memory/a",
        memory__stat="hierarchical_memory_limit 67108864\ntotal_inactive_file 30000\n",
        memory__usage_in_bytes="20000\n",
        memory__limit_in_bytes="9223372036854771712\n",
    )
    layout = CgroupLayout("v1", {"memory": str(tmp_path / "memory")}, None, frozenset())
    stats = StatsReader(layout).read("/a")
    assert stats.cpu is None
    assert stats.memory is not None
    assert (stats.memory.limit, stats.memory.swap_limit, stats.memory.working_set) == (None, None, 0)
    assert stats.memory.swap_usage is None, "without swap accounting the kernel has no such line"


def test_of_a_cgroup_that_is_gone_nothing_is_told(tmp_path: Path) -> None:
    assert _v1(tmp_path).read("/gone", For.METRICS, processes=True) == CgroupStats()
    reader = StatsReader(CgroupLayout("v2", {}, str(tmp_path), frozenset()))
    assert reader.read("/gone", For.METRICS, processes=True) == CgroupStats()
    assert reader.oom_kills("/gone") is None


def test_v2_numbers_and_pressure(tmp_path: Path) -> None:
    some = "some avg10=1.50 avg60=0.25 avg300=0.00 total=12345\n"
    full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    _write(
        tmp_path / "a",
        cpu__stat="usage_usec 5000\nuser_usec 1\nsystem_usec 2\n",
        cpu__pressure=some,
        io__pressure=some + full,
        pids__current="9\n",
        memory__current="50000\n",
        memory__stat="anon 111\nfile 2\ninactive_anon 9\ninactive_file 10000\npgfault 5\npgmajfault 1\n",
        memory__max="max\n",
        memory__swap__current="10\n",
        memory__swap__max="4096\n",
        memory__events="low 0\nhigh 0\nmax 0\noom 3\noom_kill 2\noom_group_kill 0\n",
    )
    stats = StatsReader(CgroupLayout("v2", {}, str(tmp_path), frozenset())).read("/a")
    assert stats.cpu == CpuStats(5_000_000, PressureStats(PressureLine(1.5, 0.25, 0.0, 12345), None))
    assert stats.io_pressure == PressureStats(PressureLine(1.5, 0.25, 0.0, 12345), PressureLine(0, 0, 0, 7))
    assert stats.memory == MemoryStats(50000, 10000, 111, 5, 1, None, 10, 4096)


def test_v2_without_swap_accounting_and_pressure_says_nothing_of_either(tmp_path: Path) -> None:
    _write(tmp_path / "a", memory__current="50000\n", memory__stat="anon 111\n", memory__max="max\n")
    stats = StatsReader(CgroupLayout("v2", {}, str(tmp_path), frozenset())).read("/a")
    assert stats.memory is not None
    assert (stats.memory.swap_usage, stats.memory.pressure) == (None, None)
    assert (stats.cpu, stats.io_pressure) == (None, None)


def test_a_whole_reading_of_v1(tmp_path: Path) -> None:
    _write(
        tmp_path / "cpuacct/a",
        cpuacct__usage="900\n",
        cpuacct__stat="user 50\nsystem 40\n",
    )
    _write(tmp_path / "cpu/a", cpu__stat="nr_periods 8\nnr_throttled 3\nthrottled_time 70\nwait_sum 1\n")
    _write(tmp_path / "pids/a", pids__current="4\n", pids__max="100\n", cgroup__procs="12\n7\n")
    _write(tmp_path / "pids/a/below/deeper", cgroup__procs="31\n")
    _write(
        tmp_path / "memory/a",
        memory__stat=V1_STAT + "mapped_file 2\ntotal_mapped_file 4\npgfault 70\npgmajfault 1\n",
        memory__usage_in_bytes="20000\n",
        memory__max_usage_in_bytes="30000\n",
        memory__kmem__usage_in_bytes="16\n",
        memory__failcnt="9\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    )
    _write(
        tmp_path / "blkio/a",
        blkio__throttle__io_service_bytes_recursive="8:0 Read 4096\n8:0 Write 512\nTotal 4608\n",
        blkio__throttle__io_serviced_recursive="8:0 Read 2\n8:0 Write 1\n253:1 Read 1\nTotal 4\n",
    )
    stats = _v1(tmp_path).read("/a", For.METRICS, processes=True)
    assert stats.cpu == CpuStats(900, user=500_000_000, system=400_000_000, throttling=(8, 3, 70))
    assert (stats.threads, stats.most_threads, stats.processes) == (4, 100, (7, 12, 31))
    assert stats.parts == MemoryDetails(4096, 4, 16, 5, 30000, 9, 70, 1, 2)
    assert stats.devices == (
        DeviceStats(8, 0, {"Read": 4096, "Write": 512}, {"Read": 2, "Write": 1}),
        DeviceStats(253, 1, {}, {"Read": 1}),
    )


def test_a_whole_reading_of_v2(tmp_path: Path) -> None:
    _write(
        tmp_path / "a",
        cpu__stat="usage_usec 9\nuser_usec 5\nsystem_usec 4\n"
        "nr_periods 8\nnr_throttled 3\nthrottled_usec 7\n",
        memory__current="50000\n",
        memory__peak="60000\n",
        memory__stat="anon 1\nfile 2\nkernel 3\nfile_mapped 4\ninactive_file 5\nactive_file 6\n",
        memory__events="low 0\nhigh 0\nmax 11\noom 3\noom_kill 2\n",
        pids__current="9\n",
        pids__max="max\n",
        cgroup__procs="12\n",
        io__stat="8:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0\n7:1 \n",
    )
    stats = StatsReader(CgroupLayout("v2", {}, str(tmp_path), frozenset())).read(
        "/a", For.METRICS, processes=True
    )
    assert stats.cpu == CpuStats(9000, user=5000, system=4000, throttling=(8, 3, 7000))
    assert (stats.threads, stats.most_threads, stats.processes) == (9, None, (12,))
    assert stats.parts == MemoryDetails(2, 4, 3, 6, 60000, 11, None, None, 2)
    assert stats.devices == (
        DeviceStats(8, 0, {"Read": 4096, "Write": 512, "Discard": 0}, {"Read": 2, "Write": 1, "Discard": 0}),
    )


@pytest.mark.parametrize("mode", ["v1", "v2"])
def test_files_that_are_empty_or_missing_give_no_numbers(tmp_path: Path, mode: str) -> None:
    names = (
        "cpu.stat",
        "cpuacct.usage",
        "memory.stat",
        "memory.usage_in_bytes",
        "memory.current",
        "io.pressure",
    )
    trees = {name: str(tmp_path / "t") for name in ("cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb")}
    _write(tmp_path / "t" / "a", **{name.replace(".", "__"): "" for name in names})
    layout = CgroupLayout("v1", trees, None, frozenset())
    if mode == "v2":
        layout = CgroupLayout("v2", {}, str(tmp_path / "t"), frozenset())
    assert StatsReader(layout).read("/a", For.METRICS, processes=True) == CgroupStats(processes=())


def test_sizes_of_huge_pages_are_named_as_the_files_of_cgroups_are(tmp_path: Path) -> None:
    for kib in (64, 2048, 1048576):
        (tmp_path / f"hugepages-{kib}kB").mkdir()
    assert set(huge_page_sizes(str(tmp_path))) == {"64KB", "2MB", "1GB"}
    assert huge_page_sizes(str(tmp_path / "nowhere")) == ()


def test_a_list_of_processes_that_is_longer_than_one_read_is_read_to_its_end(tmp_path: Path) -> None:
    pids = range(100_000, 130_000)
    _write(tmp_path / "a", cgroup__procs="".join(f"{pid}\n" for pid in pids))
    files = OpenFiles(str)
    for reading in ("by its path", "from the open file"):
        assert files.processes(str(tmp_path / "a")) == set(pids), reading
    files.close()


def test_kills_below_a_cgroup_come_with_those_of_each_child_that_exists(tmp_path: Path) -> None:
    _write(tmp_path / "pod", memory__events="oom 9\noom_kill 5\n")
    for name, kills in (("a", 2), ("b", 0)):
        _write(tmp_path / "pod" / name, memory__events=f"oom 9\noom_kill {kills}\n")
    reader = StatsReader(CgroupLayout("v2", {}, str(tmp_path), frozenset()))
    assert reader.oom_kills_below("/pod") == (5, {"a": 2, "b": 0})
    assert reader.oom_kills_below("/gone") == (0, {})
    assert _v1(tmp_path).oom_kills_below("/pod") == (0, {})


def test_a_kill_between_two_readings_is_in_both_numbers(tmp_path: Path) -> None:
    _write(tmp_path / "pod", memory__events="oom_kill 1\n")
    _write(tmp_path / "pod" / "a", memory__events="oom_kill 0\n")

    class Killing(StatsReader):
        def oom_kills(self, path: str) -> int | None:
            found = super().oom_kills(path)
            if path == "/pod":  # just after it was read
                for cgroup, kills in (("pod", 2), ("pod/a", 1)):
                    _write(tmp_path / cgroup, memory__events=f"oom_kill {kills}\n")
            return found

    reader = Killing(CgroupLayout("v2", {}, str(tmp_path), frozenset()))
    assert reader.oom_kills_below("/pod") == (2, {"a": 1})
