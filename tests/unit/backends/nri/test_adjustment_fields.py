"""Every field of a ContainerAdjustment lands in the OCI spec, and plugins may not both set the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format

from crib.backends.nri.translate_adjustment import container_edits
from crib.model.edits import ContainerEdits
from crib.model.ids import ContainerId
from crib.ocispec.adjust import Answers, NodePluginAnswer
from crib.ocispec.adjust_owners import Contradiction, Field
from crib.ocispec.container import container_spec
from crib.ocispec.inputs import ContainerInputs, HostDevice
from crib.ocispec.origins import origins
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.wire import oci_runtime as oci
from tests.unit.backends.nri.adjustment_cases import CASES, AdjustmentCase, leaves
from tests.unit.ocispec.inputs_for_tests import HOST, inputs

ID = ContainerId("c" * 64)


def edits_of(message: dict[str, Any], plugin: str = "10-a") -> ContainerEdits:
    adjust = json_format.ParseDict(message, pb.ContainerAdjustment())
    edits = container_edits(plugin, adjust)
    brought = tuple(ContainerEdits(f"CDI {name}", env=(("GPU", name),)) for name in edits.cdi_devices)
    return replace(edits, injected=brought)


def inputs_with(*edits: ContainerEdits, cgroup_v2: bool = False) -> ContainerInputs:
    host = replace(HOST, cgroup_layout="v2") if cgroup_v2 else HOST
    return inputs(edits=edits, host=host, blockio_classes={"slow": oci.BlockIo(weight=50)})


def found(document: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document.get(key)
        if document is None:
            return None
    return document


def test_there_is_a_case_for_every_field_that_a_plugin_can_adjust() -> None:
    assert set(leaves(pb.ContainerAdjustment.DESCRIPTOR)) == set(CASES)


@pytest.mark.parametrize("field", CASES)
def test_what_a_plugin_sets_lands_in_the_spec(field: str) -> None:
    case = CASES[field]
    made = oci.encode(container_spec(inputs_with(edits_of(case.message), cgroup_v2=case.cgroup_v2)))
    before = oci.encode(container_spec(inputs_with(cgroup_v2=case.cgroup_v2)))
    assert found(json.loads(made), case.pointer) == case.expected
    if field != "linux.rdt.remove":
        assert made != before


@pytest.mark.parametrize("field", [name for name in CASES if name != "linux.rdt.remove"])
def test_explain_names_the_plugin_that_has_set_a_field(field: str) -> None:
    case = CASES[field]
    told = origins(inputs_with(edits_of(case.message), cgroup_v2=case.cgroup_v2))
    pointer = positive(case)
    best = max((place for place in told if pointer == place or pointer.startswith(f"{place}/")), key=len)
    assert "NRI 10-a" in told[best], (pointer, told)


def positive(case: AdjustmentCase) -> str:
    """The pointer with the last element's own position."""
    made = json.loads(
        oci.encode(container_spec(inputs_with(edits_of(case.message), cgroup_v2=case.cgroup_v2)))
    )
    above, last, below = case.pointer.partition("/-1")
    return f"{above}/{len(found(made, above)) - 1}{below}" if last else case.pointer


CONFLICTS = {
    "annotations": (Field.Annotations, "a.b/c"),
    "mounts.destination": (Field.Mounts, "/new/a/b/c"),
    "linux.devices.path": (Field.Devices, "/dev/new"),
    "CDI_devices.name": (Field.CdiDevices, "vendor.com/gpu=0"),
    "env.key": (Field.Env, "NEW"),
    "args": (Field.Args, ""),
    "linux.resources.memory.limit": (Field.MemLimit, ""),
    "linux.resources.memory.reservation": (Field.MemReservation, ""),
    "linux.resources.memory.swap": (Field.MemSwapLimit, ""),
    "linux.resources.memory.kernel": (Field.MemKernelLimit, ""),
    "linux.resources.memory.kernel_tcp": (Field.MemTCPLimit, ""),
    "linux.resources.memory.swappiness": (Field.MemSwappiness, ""),
    "linux.resources.memory.disable_oom_killer": (Field.MemDisableOomKiller, ""),
    "linux.resources.memory.use_hierarchy": (Field.MemUseHierarchy, ""),
    "linux.resources.cpu.shares": (Field.CPUShares, ""),
    "linux.resources.cpu.quota": (Field.CPUQuota, ""),
    "linux.resources.cpu.period": (Field.CPUPeriod, ""),
    "linux.resources.cpu.realtime_runtime": (Field.CPURealtimeRuntime, ""),
    "linux.resources.cpu.realtime_period": (Field.CPURealtimePeriod, ""),
    "linux.resources.cpu.cpus": (Field.CPUSetCPUs, ""),
    "linux.resources.cpu.mems": (Field.CPUSetMems, ""),
    "linux.resources.pids.limit": (Field.PidsLimit, ""),
    "linux.resources.hugepage_limits.limit": (Field.HugepageLimits, "2MB"),
    "linux.resources.blockio_class": (Field.BlockioClass, ""),
    "linux.resources.rdt_class": (Field.RdtClass, ""),
    "linux.resources.unified": (Field.CgroupsUnified, "memory.high"),
    "linux.cgroups_path": (Field.CgroupsPath, ""),
    "linux.oom_score_adj": (Field.OomScoreAdj, ""),
    "rlimits.type": (Field.Rlimits, "RLIMIT_CORE"),
    "linux.io_priority.class": (Field.IoPriority, ""),
    "linux.seccomp_policy.default_action": (Field.SeccompPolicy, ""),
    "linux.namespaces.type": (Field.Namespace, "time"),
    "linux.sysctl": (Field.Sysctl, "net.core.somaxconn"),
    "linux.net_devices.name": (Field.LinuxNetDevices, "eth7"),
    "linux.scheduler.policy": (Field.LinuxSched, ""),
    "linux.rdt.clos_id": (Field.RdtClosID, ""),
    "linux.rdt.schemata": (Field.RdtSchemata, ""),
    "linux.rdt.enable_monitoring": (Field.RdtEnableMonitoring, ""),
    "linux.memory_policy.mode": (Field.MemoryPolicy, ""),
}
RDT_IN_ORDER = {Field.RdtSchemata: "RdtClosID", Field.RdtEnableMonitoring: "RdtClosID"}
"""The case of RDT sets all three, of which the first is the one that is told."""


def test_there_is_a_conflict_for_every_field_that_has_one_owner() -> None:
    assert {field for field, _ in CONFLICTS.values()} == set(Field) - {Field.OciHooks}
    assert {field.name: field.value for field in Field} | {"None": 0} == dict(pb.Field.items())


@pytest.mark.parametrize("path", CONFLICTS)
def test_two_plugins_may_not_both_set(path: str) -> None:
    field, key = CONFLICTS[path]
    answers = Answers(ID, creating=True)
    answers.add(NodePluginAnswer("10-a", edits_of(CASES[path].message, "10-a")))
    with pytest.raises(Contradiction) as caught:
        answers.add(NodePluginAnswer("20-b", edits_of(CASES[path].message, "20-b")))
    named = f"{RDT_IN_ORDER.get(field, field.name)} {key}".strip()
    assert str(caught.value) == f'plugins "20-b" and "10-a" both tried to set {named}'
    assert len(answers.edits) == 1
    owner = answers.owners[ID].owner(field, key)
    assert owner == "10-a"


def test_hooks_of_two_plugins_run_one_after_the_other() -> None:
    answers = Answers(ID, creating=True)
    for plugin in ("10-a", "20-b"):
        message = {"hooks": {"poststop": [{"path": f"/bin/{plugin}"}]}}
        answers.add(NodePluginAnswer(plugin, edits_of(message, plugin)))
    spec = container_spec(inputs_with(*answers.edits))
    assert spec.hooks is not None
    assert [hook.path for hook in spec.hooks.poststop] == ["/bin/10-a", "/bin/20-b"]
    assert answers.owners[ID].hooks == ("10-a", "20-b")


REMOVALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "annotations": ({"annotations": {"k": "1"}}, {"annotations": {"-k": ""}}),
    "mounts": (
        {"mounts": [{"destination": "/new", "source": "/a"}]},
        {"mounts": [{"destination": "-/new"}]},
    ),
    "env": ({"env": [{"key": "NEW", "value": "1"}]}, {"env": [{"key": "-NEW"}]}),
    "devices": (
        {"linux": {"devices": [{"path": "/dev/new", "type": "c"}]}},
        {"linux": {"devices": [{"path": "-/dev/new"}]}},
    ),
    "sysctl": ({"linux": {"sysctl": {"kernel.x": "1"}}}, {"linux": {"sysctl": {"-kernel.x": ""}}}),
    "net_devices": (
        {"linux": {"net_devices": {"eth7": {"name": "net0"}}}},
        {"linux": {"net_devices": {"-eth7": {}}}},
    ),
    "args": ({"args": ["a"]}, {"args": [""]}),
    "rdt": ({"linux": {"rdt": {"clos_id": {"value": "x"}}}}, {"linux": {"rdt": {"remove": True}}}),
}


def joined(*messages: dict[str, Any]) -> dict[str, Any]:
    whole = pb.ContainerAdjustment()
    for message in messages:
        whole.MergeFrom(json_format.ParseDict(message, pb.ContainerAdjustment()))
    return json_format.MessageToDict(whole, preserving_proto_field_name=True)


@pytest.mark.parametrize("kind", REMOVALS)
def test_a_plugin_that_removes_what_another_has_set_may_set_it_and_a_third_may_not(kind: str) -> None:
    added, mark = REMOVALS[kind]
    answers = Answers(ID, creating=True)
    answers.add(NodePluginAnswer("10-a", edits_of(added, "10-a")))
    answers.add(NodePluginAnswer("20-b", edits_of(joined(mark, added), "20-b")))
    with pytest.raises(Contradiction, match='plugins "30-c" and "20-b" both tried to set'):
        answers.add(NodePluginAnswer("30-c", edits_of(added, "30-c")))
    twice = oci.encode(container_spec(inputs_with(*answers.edits)))
    assert twice == oci.encode(container_spec(inputs_with(edits_of(added))))


@pytest.mark.parametrize("kind", [kind for kind in REMOVALS if kind != "args"])
def test_what_a_plugin_removes_is_gone_from_the_spec(kind: str) -> None:
    added, mark = REMOVALS[kind]
    edits = (edits_of(added, "10-a"), edits_of(mark, "20-b"))
    assert oci.encode(container_spec(inputs_with(*edits))) == oci.encode(container_spec(inputs_with()))
    answers = Answers(ID, creating=True)
    for plugin, one in zip(("10-a", "20-b"), edits, strict=True):
        answers.add(NodePluginAnswer(plugin, one))
    with pytest.raises(Contradiction, match='plugins "30-c" and "20-b" both tried to set'):
        answers.add(NodePluginAnswer("30-c", edits_of(added, "30-c")))


def test_what_a_plugin_removes_without_another_having_set_it_is_free_for_the_next() -> None:
    answers = Answers(ID, creating=True)
    answers.add(NodePluginAnswer("10-a", edits_of({"env": [{"key": "-A"}]})))
    answers.add(NodePluginAnswer("20-b", edits_of({"env": [{"key": "A", "value": "b"}]}, "20-b")))
    env = container_spec(inputs_with(*answers.edits)).process.env
    assert [entry for entry in env if entry.startswith("A=")] == ["A=b"]


def test_what_the_container_has_by_itself_can_be_removed() -> None:
    plain = inputs_with()
    device = HostDevice("/dev/sda", "b", 8, 0, 0o600, 0, 0)
    plain = replace(plain, node_devices=(device,))
    removed = {
        "env": [{"key": "-A"}, {"key": "-NOT_THERE"}],
        "mounts": [{"destination": "-/dev/shm"}],
        "linux": {
            "devices": [{"path": "-/dev/sda"}],
            "namespaces": [{"type": "-ipc"}],
        },
    }
    before, after = container_spec(plain), container_spec(replace(plain, edits=(edits_of(removed),)))
    assert set(before.process.env) - set(after.process.env) == {"A=image"}
    assert {m.destination for m in before.mounts} - {m.destination for m in after.mounts} == {"/dev/shm"}
    assert [one.path for one in before.linux.devices] == ["/dev/sda"]
    assert not after.linux.devices
    assert after.linux.resources is not None
    assert (8, 0) not in [(rule.major, rule.minor) for rule in after.linux.resources.devices]
    assert {one.type for one in before.linux.namespaces} - {n.type for n in after.linux.namespaces} == {"ipc"}
