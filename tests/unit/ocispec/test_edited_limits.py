"""Limits that edits change: as the host has them, for systemd too, and refused where they cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.edits import (
    ContainerEdits,
    RdtChange,
    SetIoPriority,
    SetMemoryPolicy,
    SetScheduler,
)
from crib.model.errors import Broken
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import Resources
from crib.ocispec.container import container_spec
from crib.ocispec.edits import with_edits
from crib.ocispec.inputs import ContainerInputs
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import HANDLER, HOST, inputs, with_config

MIB = 1 << 20
ASKED = Resources(
    cpu_shares=1024,
    cpu_quota=10_000,
    cpu_period=100_000,
    memory_limit_in_bytes=64 * MIB,
    memory_swap_limit_in_bytes=96 * MIB,
    cpuset_cpus="0",
)


def on(layout: str, change: ResourceChange, **fields: object) -> ContainerInputs:
    plain = replace(with_config(resources=ASKED), host=replace(HOST, cgroup_layout=layout))
    edits = ContainerEdits("NRI 10-a", resources=change)
    return replace(plain, edits=(edits,), **fields)  # type: ignore[arg-type] # fields of ContainerInputs


def limits(layout: str, change: ResourceChange, **fields: object) -> oci.Resources:
    found = container_spec(on(layout, change, **fields)).linux.resources
    assert found is not None
    return found


def test_on_cgroup_v2_shares_and_swap_are_files_after_an_edit_too() -> None:
    made = limits("v2", ResourceChange(cpu_shares=512, memory_limit=32 * MIB))
    assert made.unified["cpu.weight"] == "59"
    assert made.memory == oci.Memory(limit=32 * MIB)
    assert made.unified["memory.swap.max"] == "0", "a limit without a word about swap means none"
    assert made.cpu == oci.Cpu(quota=10_000, period=100_000, cpus="0")


def test_on_cgroup_v2_an_edits_own_file_counts_before_its_field() -> None:
    made = limits("v2", ResourceChange(cpu_shares=512, unified={"cpu.weight": "7", "memory.high": "5"}))
    assert (made.unified["cpu.weight"], made.unified["memory.high"]) == ("7", "5")


def test_what_an_edit_does_not_name_stays() -> None:
    for layout in ("v1", "v2"):
        plain = limits(layout, ResourceChange())
        made = limits(layout, ResourceChange(memory_reservation=5))
        assert made.memory is not None
        assert plain.memory is not None
        assert made.memory.reservation == 5
        assert made.memory.limit == plain.memory.limit
        assert made.cpu == plain.cpu
        assert made.unified == plain.unified


def test_on_cgroup_v1_a_memory_limit_is_one_with_swap() -> None:
    made = limits("v1", ResourceChange(memory_limit=32 * MIB))
    assert made.memory == oci.Memory(limit=32 * MIB, swap=32 * MIB)
    host = replace(HOST, swap_accounting=False)
    assert limits("v1", ResourceChange(memory_limit=32 * MIB), host=host).memory == oci.Memory(limit=32 * MIB)


def test_the_number_of_processes_is_limited_on_both() -> None:
    for layout in ("v1", "v2"):
        assert limits(layout, ResourceChange(pids_limit=9), pids_limit=5).pids == oci.Pids(9)
    assert limits("v1", ResourceChange(unified={"pids.max": "7"}), pids_limit=5).pids == oci.Pids(7)


def test_a_new_cgroup_has_no_quota_by_itself() -> None:
    cpu = limits("v1", ResourceChange(cpu_quota=-1)).cpu
    assert cpu is not None
    assert cpu.quota is None


def test_systemd_is_told_of_the_limits_that_an_edit_has_set() -> None:
    path = "kubepods-pod1.slice:crib:c"
    made = container_spec(on("v2", ResourceChange(cpu_shares=512, pids_limit=9), cgroups_path=path))
    assert made.annotations["org.systemd.property.CPUWeight"] == "uint64 59"
    assert made.annotations["org.systemd.property.TasksMax"] == "uint64 9"
    plain = container_spec(on("v2", ResourceChange(), cgroups_path=path))
    assert plain.annotations["org.systemd.property.CPUWeight"] == "uint64 100"


def test_an_edits_seccomp_policy_is_not_replaced_by_a_filter_that_was_compiled_before() -> None:
    plain = inputs(seccomp_filter="Zm9v")
    policy = oci.encode(oci.Seccomp("SCMP_ACT_ALLOW"))
    made = container_spec(replace(plain, edits=(ContainerEdits("NRI 10-a", seccomp=policy),)))
    assert made.linux.seccomp == oci.Seccomp("SCMP_ACT_ALLOW")
    assert "run.oci.seccomp_bpf_data" in container_spec(plain).annotations
    assert "run.oci.seccomp_bpf_data" not in made.annotations


def test_a_class_of_block_io_is_looked_up_and_an_empty_one_takes_the_settings_away() -> None:
    classes = {"slow": oci.BlockIo(weight=50)}
    assert (
        limits("v1", ResourceChange(blockio_class="slow"), blockio_classes=classes).block_io
        == classes["slow"]
    )
    assert limits("v1", ResourceChange(blockio_class=""), blockio_classes=classes).block_io is None


@pytest.mark.parametrize(
    ("layout", "change", "said"),
    [
        ("v1", {"unified": {"memory.high": "5"}}, "resources.unified: this host has no cgroup v2"),
        ("v2", {"unified": {"cgroup.kill": "1"}}, "'cgroup.kill' is not a limit of a cgroup"),
        ("v2", {"memory_kernel": 5}, "resources.memory_kernel: cgroup v2 has no such limit"),
        ("v2", {"memory_swappiness": 0}, "resources.memory_swappiness: cgroup v2 has no such limit"),
        ("v2", {"cpu_realtime_runtime": 5}, "resources.cpu_realtime_runtime: cgroup v2 has no such limit"),
        ("v1", {"cpuset_cpus": "x"}, "resources.cpuset_cpus: 'x' is not a list such as 0-2,5"),
        ("v1", {"hugepage_limits": {"2": 1}}, "'2' is not a size such as 2MB"),
        ("v1", {"blockio_class": "gold"}, "resources.blockio_class: this node has no block I/O class 'gold'"),
    ],
)
def test_what_this_host_cannot_do_is_refused_by_name(
    layout: str, change: dict[str, object], said: str
) -> None:
    with pytest.raises(Broken, match="NRI 10-a asks for what cannot be done") as caught:
        container_spec(on(layout, ResourceChange(**change)))  # type: ignore[arg-type] # any field of it
    assert said in str(caught.value)


def test_huge_pages_need_their_controller() -> None:
    host = replace(HOST, cgroup_controllers=("cpu",))
    with pytest.raises(Broken, match="hugepage_limits: this host has no hugetlb controller"):
        limits("v1", ResourceChange(hugepage_limits={"2MB": 1}), host=host)
    assert limits("v1", ResourceChange(hugepage_limits={"2MB": 0}), host=host).hugepage_limits == ()


@pytest.mark.parametrize(
    ("field", "edits"),
    [
        ("scheduler", ContainerEdits("NRI 10-a", scheduler=SetScheduler("SCHED_BATCH"))),
        ("io_priority", ContainerEdits("NRI 10-a", io_priority=SetIoPriority("IOPRIO_CLASS_BE"))),
        ("net_devices", ContainerEdits("NRI 10-a", net_devices=(("eth1", ""),))),
        ("memory_policy", ContainerEdits("NRI 10-a", memory_policy=SetMemoryPolicy("MPOL_LOCAL"))),
        ("rdt", ContainerEdits("NRI 10-a", rdt=RdtChange(clos_id="gold"))),
        ("rdt", ContainerEdits("NRI 10-a", resources=ResourceChange(rdt_class="gold"))),
    ],
)
def test_a_field_that_the_runtime_does_not_know_is_refused_by_name(field: str, edits: ContainerEdits) -> None:
    handler = replace(HANDLER, unknown_fields=frozenset((field,)))
    with pytest.raises(Broken, match=rf"{field}: handler crun \(/usr/bin/crun 1\.8\.1\) does not know it"):
        container_spec(inputs(edits=(edits,), handler=handler))
    container_spec(inputs(edits=(edits,)))
    others = replace(HANDLER, unknown_fields=frozenset(("scheduler", "rdt")) - {field})
    container_spec(inputs(edits=(edits,), handler=others))


def test_a_network_device_keeps_its_name_unless_it_gets_another() -> None:
    edits = ContainerEdits("NRI 10-a", net_devices=(("eth1", ""), ("eth2", "lan")))
    spec = with_edits(container_spec(inputs()), edits)
    assert spec.linux.net_devices == {"eth1": oci.NetDevice("eth1"), "eth2": oci.NetDevice("lan")}
