"""Limits as node plugins name them, and as the CRI does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crib.model.plugin_limits import change_of, changed
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import Resources, merged

NUMBERS = st.integers(0, 1 << 40)
RESOURCES = st.builds(
    Resources,
    cpu_period=NUMBERS,
    cpu_quota=st.integers(-1, 1 << 40),
    cpu_shares=NUMBERS,
    memory_limit_in_bytes=st.integers(-1, 1 << 40),
    memory_swap_limit_in_bytes=st.integers(-1, 1 << 40),
    cpuset_cpus=st.sampled_from(["", "0", "1-2"]),
    hugepage_limits=st.dictionaries(st.sampled_from(["2MB", "1GB"]), NUMBERS),
    unified=st.dictionaries(st.sampled_from(["pids.max", "memory.high"]), st.just("7")),
)


@given(current=RESOURCES, asked=RESOURCES)
def test_what_a_client_asks_for_comes_back_the_same_from_plugins_that_change_nothing(
    current: Resources, asked: Resources
) -> None:
    assert changed(current, change_of(asked)) == merged(current, asked)


def test_what_the_cri_has_no_field_for_is_kept_beside_and_added_to() -> None:
    first = ResourceChange(memory_reservation=1, pids_limit=2, blockio_class="slow", rdt_class="gold")
    once = changed(Resources(cpu_shares=5), first)
    assert once == Resources(cpu_shares=5, beyond=ResourceChange(memory_reservation=1, pids_limit=2))
    twice = changed(once, ResourceChange(pids_limit=3, cpuset_cpus="0"))
    assert twice == Resources(
        cpu_shares=5, cpuset_cpus="0", beyond=ResourceChange(memory_reservation=1, pids_limit=3)
    )
    assert merged(twice, Resources(cpu_shares=6)).beyond == twice.beyond


def test_a_change_of_nothing_is_none() -> None:
    assert not ResourceChange()
    assert not change_of(Resources())
    assert ResourceChange(memory_disable_oom_killer=False)
    assert ResourceChange(cpuset_cpus="")
