"""Usage of a cgroup v2, from files as kernels write them, in the model's words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crib.backends.pods.usage import UsageReader
from crib.host.cgroup_stats import For, StatsReader
from crib.host.cgroups import CgroupLayout
from crib.model.paths import Paths
from crib.model.stats import CgroupUsage, Pressure, Stall, SwapUsage

PRESSURE = """some avg10=1.50 avg60=0.25 avg300=0.01 total=12345
full avg10=0.50 avg60=0.00 avg300=0.00 total=7
"""
FILES = {
    "cpu.stat": "usage_usec 5000\n",
    "cpu.pressure": PRESSURE,
    "memory.pressure": PRESSURE,
    "io.pressure": PRESSURE,
    "pids.current": "9\n",
    "memory.current": "50000\n",
    "memory.stat": "anon 111\ninactive_file 10000\n",
    "memory.max": "max\n",
    "memory.swap.current": "1024\n",
    "memory.swap.max": "4096\n",
}
WAITED = Pressure(Stall(1.5, 0.25, 0.01, 12_345_000), Stall(0.5, 0.0, 0.0, 7_000))


@pytest.fixture
def reader(tmp_path: Path) -> UsageReader:
    layout = CgroupLayout("v2", {}, str(tmp_path), frozenset())
    return UsageReader(Paths(str(tmp_path / "data"), str(tmp_path / "state")), StatsReader(layout))


def read(reader: UsageReader, directory: Path, *, without: tuple[str, ...] = (), **other: str) -> CgroupUsage:
    directory.mkdir(exist_ok=True)
    for name, text in FILES.items():
        if name not in without:
            (directory / name).write_text(other.get(name.replace(".", "_"), text))
    return reader.cgroup(f"/{directory.name}")


def test_swap_pressure_and_io_are_told(reader: UsageReader, tmp_path: Path) -> None:
    usage = read(reader, tmp_path / "pod")
    assert usage.cpu is not None
    assert usage.memory is not None
    assert usage.io is not None
    assert (usage.cpu.pressure, usage.memory.pressure, usage.io.pressure) == (WAITED, WAITED, WAITED)
    assert usage.swap == SwapUsage(usage.memory.at, usage=1024, available=3072)


def test_swap_without_a_limit_has_nothing_that_is_left(reader: UsageReader, tmp_path: Path) -> None:
    usage = read(reader, tmp_path / "pod", memory_swap_max="max\n")
    assert usage.swap is not None
    assert (usage.swap.usage, usage.swap.available) == (1024, None)
    usage = read(reader, tmp_path / "pod", memory_swap_max="0\n")
    assert usage.swap is not None
    assert usage.swap.available == 0, "never less, when the limit was lowered below what is used"


def test_what_the_kernel_does_not_tell_is_absent_and_not_zero(reader: UsageReader, tmp_path: Path) -> None:
    off = ("cpu.pressure", "memory.pressure", "io.pressure", "memory.swap.current", "memory.swap.max")
    usage = read(reader, tmp_path / "pod", without=off)
    assert usage.cpu is not None
    assert usage.memory is not None
    assert (usage.cpu.pressure, usage.memory.pressure, usage.io, usage.swap) == (None, None, None, None)


def test_pressure_of_the_cpu_is_told_without_full_where_the_kernel_has_none(
    reader: UsageReader, tmp_path: Path
) -> None:
    usage = read(reader, tmp_path / "pod", cpu_pressure=PRESSURE.splitlines()[0] + "\n")
    assert usage.cpu is not None
    assert usage.cpu.pressure == Pressure(WAITED.some)


def test_descriptors_are_counted_again_once_a_process_has_run(reader: UsageReader, tmp_path: Path) -> None:
    pod = tmp_path / "pod"
    read(reader, pod)
    (pod / "cgroup.procs").write_text(f"{os.getpid()}\n")

    def told() -> int:
        usage = reader.cgroup("/pod", For.METRICS, processes=True, open_files=True)
        assert usage.processes is not None
        assert usage.processes.descriptors is not None
        return usage.processes.descriptors

    told()  # the files of the cgroup are open from now on
    (pod / "cpu.stat").write_text("usage_usec 6000\n")
    first = told()
    own = os.open(os.devnull, os.O_RDONLY)
    try:
        assert told() == first, "by its CPU time nobody has run"
        (pod / "cpu.stat").write_text("usage_usec 6001\n")
        assert told() == first + 1
    finally:
        os.close(own)
