"""Limits as files of a cgroup and as properties of a slice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.model.errors import InvalidRequest
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import Resources, merged
from crib.ocispec.edits_resources import with_limits
from crib.ocispec.limits import cpu_weight, limit_files, pod_limits
from crib.ocispec.resources import cgroup_limits, resources
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import HOST, inputs, sandbox, with_config

V2 = replace(HOST, cgroup_layout="v2")
MIB = 1 << 20
ALL = Resources(
    cpu_period=50_000,
    cpu_quota=25_000,
    cpu_shares=512,
    memory_limit_in_bytes=64 * MIB,
    cpuset_cpus="0-1",
    cpuset_mems="0",
    hugepage_limits={"2MB": 4 * MIB},
    memory_swap_limit_in_bytes=96 * MIB,
)


def test_version_1_has_a_file_for_each_limit() -> None:
    assert limit_files(cgroup_limits(ALL, HOST), "v1") == (
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "50000"),
        ("cpu.cfs_quota_us", "25000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("memory.limit_in_bytes", str(64 * MIB)),
        ("memory.memsw.limit_in_bytes", str(96 * MIB)),
        ("hugetlb.2MB.limit_in_bytes", str(4 * MIB)),
    )


def test_limits_that_only_plugins_ask_for_have_files_too() -> None:
    change = ResourceChange(
        memory_reservation=4096,
        memory_swappiness=10,
        memory_disable_oom_killer=True,
        memory_kernel=8192,
        memory_kernel_tcp=1024,
        cpu_realtime_runtime=5,
        cpu_realtime_period=10,
        pids_limit=9,
    )
    assert dict(limit_files(with_limits(oci.Resources(), change), "v1")) == {
        "cpu.rt_period_us": "10",
        "cpu.rt_runtime_us": "5",
        "memory.soft_limit_in_bytes": "4096",
        "memory.kmem.limit_in_bytes": "8192",
        "memory.kmem.tcp.limit_in_bytes": "1024",
        "memory.swappiness": "10",
        "memory.oom_control": "1",
        "pids.max": "9",
    }
    change = ResourceChange(memory_reservation=4096, pids_limit=-1)
    found = limit_files(with_limits(oci.Resources(), change), "v2")
    assert dict(found) == {"memory.low": "4096", "pids.max": "max"}


def test_version_2_has_weights_swap_alone_and_the_unified_files_last() -> None:
    wanted = replace(ALL, unified={"memory.high": "1000", "pids.max": "7"})
    assert limit_files(cgroup_limits(wanted, V2), "v2") == (
        ("cpu.weight", "59"),
        ("cpu.max", "25000 50000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("memory.max", str(64 * MIB)),
        ("memory.swap.max", str(32 * MIB)),
        ("hugetlb.2MB.max", str(4 * MIB)),
        ("memory.high", "1000"),
        ("pids.max", "7"),
    )


@pytest.mark.parametrize(
    ("wanted", "v1", "v2"),
    [
        (Resources(cpu_quota=-1), ("cpu.cfs_quota_us", "-1"), ("cpu.max", "max 100000")),
        (
            Resources(memory_limit_in_bytes=-1),
            ("memory.memsw.limit_in_bytes", "-1"),
            ("memory.swap.max", "max"),
        ),
        (
            Resources(memory_limit_in_bytes=MIB, memory_swap_limit_in_bytes=-1),
            ("memory.memsw.limit_in_bytes", "-1"),
            ("memory.swap.max", "max"),
        ),
        (
            Resources(memory_limit_in_bytes=MIB),
            ("memory.memsw.limit_in_bytes", str(MIB)),
            ("memory.swap.max", "0"),
        ),
        (Resources(unified={"pids.max": "max"}), ("pids.max", "max"), ("pids.max", "max")),
    ],
)
def test_no_limit_and_no_swap_are_said_as_each_version_has_it(
    wanted: Resources, v1: tuple[str, str], v2: tuple[str, str]
) -> None:
    assert v1 in limit_files(cgroup_limits(wanted, HOST), "v1")
    assert v2 in limit_files(cgroup_limits(wanted, V2), "v2")


def test_what_is_not_set_is_not_written() -> None:
    for layout in ("v1", "v2"):
        assert limit_files(oci.Resources(), layout) == ()


@given(st.integers(2, 262144))
def test_a_weight_is_within_bounds_and_grows_with_the_shares(shares: int) -> None:
    assert 1 <= cpu_weight(shares) <= cpu_weight(shares + 1) <= 10000


@pytest.mark.parametrize(
    ("shares", "weight"), [(1, 1), (2, 1), (1024, 100), (262144, 10000), (1 << 20, 10000)]
)
def test_weights_meet_the_shares_at_both_ends_and_at_the_default(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


def test_a_weight_is_written_by_us_at_creation_too() -> None:
    made = resources(replace(with_config(resources=Resources(cpu_shares=1024)), host=V2))
    assert made.unified == {"cpu.weight": "100"}
    own = Resources(cpu_shares=1024, unified={"cpu.weight": "7"})
    assert cgroup_limits(own, V2).unified == {"cpu.weight": "7"}


def test_the_number_of_processes_is_limited_on_either_version() -> None:
    assert resources(with_config(resources=Resources(unified={"pids.max": "9"}))).pids == oci.Pids(9)
    assert resources(inputs(pids_limit=100)).pids == oci.Pids(100)
    assert resources(inputs()).pids is None
    own = with_config(resources=Resources(unified={"pids.max": "9"}))
    assert resources(replace(own, pids_limit=100)).pids == oci.Pids(9)
    on_v2 = resources(replace(own, host=V2, pids_limit=100))
    assert (on_v2.pids, on_v2.unified) == (None, {"pids.max": "9"})


@pytest.mark.parametrize("value", ["-1", "many", "1\n", ""])
def test_a_limit_of_processes_must_be_one(value: str) -> None:
    if not value:
        assert cgroup_limits(Resources(unified={"pids.max": value}), HOST).pids is None
        return
    with pytest.raises(InvalidRequest, match=r"^unified\['pids.max'\]"):
        cgroup_limits(Resources(unified={"pids.max": value}), HOST)


@pytest.mark.parametrize("key", ["cgroup.procs", "cgroup.kill", "cgroup.freeze", "../memory.max"])
def test_a_file_that_is_no_limit_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest, match="not a limit"):
        cgroup_limits(Resources(unified={key: "1"}), V2)


def test_an_updates_errors_name_the_updates_fields() -> None:
    with pytest.raises(InvalidRequest, match=r"^cpuset_cpus"):
        cgroup_limits(Resources(cpuset_cpus="x"), HOST)


def test_version_2_says_shares_and_swap_as_the_files_that_they_are() -> None:
    made = resources(replace(with_config(resources=ALL), host=V2))
    assert made.unified == {"cpu.weight": "59", "memory.swap.max": str(32 * MIB)}
    assert made.memory == oci.Memory(limit=64 * MIB)
    assert made.cpu == oci.Cpu(quota=25_000, period=50_000, cpus="0-1", mems="0")
    swapless = replace(with_config(resources=Resources(memory_limit_in_bytes=MIB, cpu_shares=2)), host=V2)
    assert resources(swapless).unified == {"cpu.weight": "1", "memory.swap.max": "0"}
    assert resources(swapless).cpu is None
    assert resources(with_config(resources=ALL)).memory == oci.Memory(limit=64 * MIB, swap=96 * MIB)


OWN = Resources(memory_limit_in_bytes=2 * MIB)


def test_a_pod_may_use_its_resources_and_its_overhead() -> None:
    record = replace(
        sandbox(),
        resources=Resources(cpu_shares=100, cpu_quota=50_000, memory_limit_in_bytes=64 * MIB),
        overhead=Resources(cpu_shares=10, cpu_quota=5_000, cpu_period=50_000, memory_limit_in_bytes=16 * MIB),
    )
    assert pod_limits(record, OWN) == Resources(
        cpu_shares=110, cpu_quota=60_000, memory_limit_in_bytes=80 * MIB
    )
    # without a limit for the containers there is none for the pod
    assert pod_limits(replace(record, resources=Resources(cpu_shares=2)), OWN) == Resources(cpu_shares=12)
    assert pod_limits(sandbox(), OWN) == Resources()


def test_a_pod_whose_client_says_no_overhead_has_that_of_its_handler() -> None:
    asked = Resources(cpu_shares=100, cpu_quota=50_000, memory_limit_in_bytes=64 * MIB)
    record = replace(sandbox(), resources=asked)
    assert pod_limits(record, OWN) == replace(asked, memory_limit_in_bytes=66 * MIB)
    assert pod_limits(replace(record, overhead=Resources()), OWN) == asked
    assert pod_limits(record, None) == Resources(cpu_shares=100), "nobody knows it: only the weight is kept"


def test_a_pods_config_counts_until_it_is_updated() -> None:
    plain = sandbox()
    record = replace(plain, config=replace(plain.config, resources=Resources(cpu_shares=5)))
    assert pod_limits(record, OWN) == Resources(cpu_shares=5)
    assert pod_limits(replace(record, resources=Resources(cpu_shares=7)), OWN) == Resources(cpu_shares=7)


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    assert merged(ALL, Resources()) == ALL
    assert merged(ALL, Resources(cpuset_cpus="0")) == replace(ALL, cpuset_cpus="0")
    assert merged(ALL, Resources(hugepage_limits={"1GB": 0})).hugepage_limits == {"2MB": 4 * MIB, "1GB": 0}
    current = Resources(unified={"memory.high": "1", "pids.max": "2"}, oom_score_adj=100)
    found = merged(current, Resources(unified={"pids.max": "3"}, oom_score_adj=-5))
    assert (found.unified, found.oom_score_adj) == ({"memory.high": "1", "pids.max": "3"}, -5)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ((100, 150), (200, 0), (200, 250)),
        ((100, 100), (50, 0), (50, 50)),
        ((100, 0), (200, 0), (200, 0)),
        ((100, -1), (200, 0), (200, -1)),
        ((100, 150), (0, 300), (100, 300)),
        ((100, 150), (200, 200), (200, 200)),
        ((100, 150), (-1, 0), (-1, 0)),
    ],
)
def test_swap_beyond_memory_stays_when_only_memory_changes(
    before: tuple[int, int], change: tuple[int, int], after: tuple[int, int]
) -> None:
    found = merged(
        Resources(memory_limit_in_bytes=before[0], memory_swap_limit_in_bytes=before[1]),
        Resources(memory_limit_in_bytes=change[0], memory_swap_limit_in_bytes=change[1]),
    )
    assert (found.memory_limit_in_bytes, found.memory_swap_limit_in_bytes) == after
