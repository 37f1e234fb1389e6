"""Limits as properties of systemd's units, and as annotations for the runtime that makes one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.sandbox import Resources
from crib.ocispec.annotations import spec_annotations
from crib.ocispec.limits import limit_files
from crib.ocispec.resources import cgroup_limits, resources
from crib.ocispec.unit_properties import Property, scope_policy, unit_annotations, unit_properties
from tests.unit.ocispec.inputs_for_tests import HANDLER, HOST, with_config

MIB = 1 << 20
INFINITY = str((1 << 64) - 1)
PERIOD = ("CPUQuotaPeriodUSec", "t", "100000")
V2 = replace(HOST, cgroup_layout="v2")
ALL = Resources(
    cpu_period=50_000,
    cpu_quota=25_000,
    cpu_shares=512,
    memory_limit_in_bytes=64 * MIB,
    memory_swap_limit_in_bytes=96 * MIB,
    cpuset_cpus="0-1,9",
    cpuset_mems="0",
    hugepage_limits={"2MB": 4 * MIB},
    unified={"memory.high": "1000", "pids.max": "max", "memory.oom.group": "1", "io.max": "8:0 rbps=1"},
)


def test_systemd_is_told_every_limit_of_version_2_that_it_has_a_property_for() -> None:
    assert set(unit_properties(limit_files(cgroup_limits(ALL, V2), "v2"))) == {
        ("CPUWeight", "t", "59"),
        ("CPUQuotaPerSecUSec", "t", "500000"),
        ("CPUQuotaPeriodUSec", "t", "50000"),
        ("AllowedCPUs", "ay", "2", "3", "2"),
        ("AllowedMemoryNodes", "ay", "1", "1"),
        ("MemoryMax", "t", str(64 * MIB)),
        ("MemorySwapMax", "t", str(32 * MIB)),
        ("MemoryHigh", "t", "1000"),
        ("TasksMax", "t", INFINITY),
    }


def test_version_1_has_properties_of_its_own() -> None:
    wanted = Resources(memory_limit_in_bytes=-1, cpu_shares=100, cpu_quota=-1, unified={"pids.max": "9"})
    assert set(unit_properties(limit_files(cgroup_limits(wanted, HOST), "v1"))) == {
        ("CPUShares", "t", "100"),
        ("MemoryLimit", "t", INFINITY),
        ("CPUQuotaPerSecUSec", "t", INFINITY),
        ("CPUQuotaPeriodUSec", "t", "100000"),
        ("TasksMax", "t", "9"),
    }


@pytest.mark.parametrize(
    ("file", "properties"),
    [
        # systemd writes its quotas down as whole percents, and reads them again when it reloads
        (("cpu.max", "33333 100000"), (("CPUQuotaPerSecUSec", "t", "340000"), PERIOD)),
        (("cpu.max", "max"), (("CPUQuotaPerSecUSec", "t", INFINITY), PERIOD)),
        (("cpu.idle", "1"), (("CPUWeight", "t", "0"),)),
        (("cpu.idle", "0"), ()),
        (("io.weight", "default 50"), (("IOWeight", "t", "50"),)),
        (("io.weight", "8:0 50"), ()),
        (("memory.low", "3M"), (("MemoryLow", "t", str(3 * MIB)),)),
        (("memory.min", "max\n"), (("MemoryMin", "t", INFINITY),)),
        (("memory.max", "much"), ()),
        (("cpu.max", "1 0 0"), ()),
        (("cpuset.cpus", "x"), ()),
        (("hugetlb.2MB.max", "1"), ()),
    ],
)  # fmt: skip
def test_a_files_content_is_understood_as_the_kernel_does(
    file: tuple[str, str], properties: tuple[Property, ...]
) -> None:
    assert unit_properties([file]) == properties


def test_a_runtime_makes_the_scope_with_the_properties_that_are_numbers() -> None:
    assert unit_annotations([("MemoryHigh", "t", "7"), ("AllowedCPUs", "ay", "1", "3")]) == {
        "org.systemd.property.MemoryHigh": "uint64 7"
    }
    inputs = replace(with_config(resources=ALL), host=V2, pids_limit=5)
    made = resources(inputs)
    assert not [key for key in spec_annotations(inputs, made) if key.startswith("org.systemd")]
    scope = replace(inputs, handler=replace(HANDLER, systemd=257), cgroups_path="kubepods-pod1.slice:crib:c")
    assert {
        key.rpartition(".")[2]
        for key in spec_annotations(scope, made)
        if key.startswith("org.systemd.property.")
    } == {
        *(
            "CPUWeight",
            "CPUQuotaPerSecUSec",
            "CPUQuotaPeriodUSec",
            "MemoryMax",
            "MemorySwapMax",
            "MemoryHigh",
        ),
        *("TasksMax", "OOMPolicy", "CollectMode"),
    }


def test_a_scope_that_dies_as_a_whole_is_made_so_where_systemd_has_that() -> None:
    files = [("memory.oom.group", "1")]
    assert scope_policy(files, 253) == {
        "org.systemd.property.OOMPolicy": "'kill'",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
    }
    assert scope_policy(files, 252) == {}
    assert scope_policy([("memory.oom.group", "0")], 257) == {}
