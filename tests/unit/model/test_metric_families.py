"""The table of metrics: what cAdvisor's users know, and values from what was read alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.model.metric_families import FAMILIES, families_of
from crib.model.metrics import GROUPS, Metered
from crib.model.sandbox import Resources
from crib.model.stats import (
    CgroupUsage,
    CpuUsage,
    HugePages,
    IoUsage,
    MemoryUsage,
    ProcessUsage,
    Throttling,
)
from tests.unit.metered import CONTAINER, SECOND, samples

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics" / "families.tsv"


def told(metered: Metered) -> dict[str, dict[tuple[str, ...], int]]:
    found: dict[str, dict[tuple[str, ...], int]] = {}
    for family, labels, value in samples(metered, FAMILIES):
        found.setdefault(family.name, {})[labels] = value
    return found


def test_names_types_groups_and_labels_are_those_of_the_golden_list() -> None:
    lines = [
        "\t".join(
            (
                family.name,
                family.kind.name.lower(),
                family.of.replace(", ", "+"),
                family.group or "always",
                " ".join(family.own_labels) or "-",
            )
        )
        for family in sorted(FAMILIES, key=lambda family: family.name)
    ]
    assert lines == [line for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]


def test_every_family_has_words_of_its_own_and_a_name_of_its_own() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) == 56
    assert all(family.help.endswith(".") for family in FAMILIES)


def test_a_whole_reading_has_a_sample_of_every_family() -> None:
    assert set(told(CONTAINER)) == {family.name for family in FAMILIES}
    for family, labels, _ in samples(CONTAINER, FAMILIES):
        assert len(labels) == len(family.own_labels), family.name


def test_values_are_those_that_were_read_in_the_units_of_their_names() -> None:
    found = told(CONTAINER)
    assert found["container_cpu_usage_seconds_total"] == {("total",): 9}
    assert found["container_cpu_cfs_throttled_seconds_total"] == {(): 2}
    assert found["container_memory_failures_total"] == {
        ("pgfault", "container"): 10,
        ("pgfault", "hierarchy"): 20,
        ("pgmajfault", "container"): 1,
        ("pgmajfault", "hierarchy"): 2,
    }
    assert found["container_blkio_device_usage_total"] == {
        ("/dev/vda", "254", "0", "Read"): 11,
        ("/dev/vda", "254", "0", "Write"): 12,
    }
    assert found["container_fs_writes_total"] == {("/dev/vda",): 2}
    assert found["container_fs_usage_bytes"] == {("/dev/vda1",): 4096}
    assert found["container_hugetlb_max_usage_bytes"] == {("2MB",): 4 << 20}
    assert found["container_pressure_io_stalled_seconds_total"] == {(): 4}
    assert found["container_ulimits_soft"] == {("max_open_files",): 1024}
    assert found["container_spec_memory_swap_limit_bytes"] == {(): 2 << 20}
    assert found["container_start_time_seconds"] == {(): 50}
    assert found["container_last_seen"] == {(): 100}
    network = [found[f"container_network_{name}_total"][("eth0",)] for name in NETWORK]
    assert network == [1, 2, 3, 4, 5, 6, 7, 8]


NETWORK = (
    "receive_bytes",
    "receive_errors",
    "transmit_bytes",
    "transmit_errors",
    "receive_packets",
    "receive_packets_dropped",
    "transmit_packets",
    "transmit_packets_dropped",
)
"""In the order of InterfaceUsage."""


def test_what_could_not_be_read_has_no_sample() -> None:
    nothing = Metered(at=SECOND, started_at=0, cgroup=CgroupUsage())
    assert told(nothing) == {"container_last_seen": {(): 1}}
    scarce = Metered(
        at=SECOND,
        started_at=0,
        cgroup=CgroupUsage(
            cpu=CpuUsage(1, 0, throttling=Throttling(0, 0, 0)),
            memory=MemoryUsage(1, 0, page_faults=1),
            io=IoUsage(1),
            processes=ProcessUsage(1, 3),
            huge_pages=(HugePages("2MB", 0),),
        ),
        limits=Resources(cpu_shares=2, cpu_quota=-1, memory_limit_in_bytes=-1),
    )
    assert told(scarce) == {
        "container_last_seen": {(): 1},
        "container_cpu_usage_seconds_total": {("total",): 0},
        "container_memory_usage_bytes": {(): 0},
        "container_memory_failures_total": {("pgfault", "container"): 1, ("pgfault", "hierarchy"): 1},
        "container_processes": {(): 3},
        "container_hugetlb_usage_bytes": {("2MB",): 0},
        "container_spec_cpu_shares": {(): 2},
        "container_spec_cpu_period": {(): 100_000},
        "container_spec_memory_limit_bytes": {(): 0},
        "container_spec_memory_reservation_limit_bytes": {(): 0},
        "container_spec_memory_swap_limit_bytes": {(): 0},
    }


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_that_is_not_chosen_is_not_there(group: str) -> None:
    without = families_of([other for other in GROUPS if other != group])
    alone = families_of([group])
    assert {family.group for family in alone} == {group, ""}
    assert len(without) + len(alone) == len(FAMILIES) + 1
    assert families_of(GROUPS) == FAMILIES
    assert [family.name for family in families_of(())] == ["container_last_seen"]
