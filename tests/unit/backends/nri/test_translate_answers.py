"""Bad values in answers are refused, with the field and the plugin; nothing that is generated breaks it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from crib.backends.nri.translate_adjustment import container_edits
from crib.backends.nri.translate_answers import (
    create_answer,
    stop_answer,
    synchronize_updates,
    unasked_orders,
    update_answer,
)
from crib.backends.nri.translate_checks import MAX_ENTRIES, MAX_TEXT, Misfit
from crib.backends.nri.translate_validation import adjustment_message
from crib.model.edits import AddedDevice, AddedMount
from crib.model.errors import Broken
from crib.model.ids import ContainerId
from crib.model.plugins import ContainerUpdate, Eviction, PluginOrders
from crib.model.resource_change import ResourceChange
from crib.ocispec.container import container_spec
from crib.ports.plugins import PluginRefused
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import inputs

SEED = 7
ROUNDS = 300


def edits(adjust: dict[str, Any]) -> Any:
    return container_edits("10-a", json_format.ParseDict(adjust, pb.ContainerAdjustment()))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"annotations": {"": "x"}}, "adjust.annotations: an entry has no name"),
    ({"annotations": {"-": "x"}}, "adjust.annotations: an entry has no name"),
    ({"annotations": {"io.kubernetes.cri.sandbox-id": "x"}}, "says whose container it is"),
    ({"annotations": {"-io.kubernetes.cri.sandbox-id": ""}}, "says whose container it is"),
    ({"annotations": {"k": "a\0b"}}, "adjust.annotations: it has a NUL in it"),
    ({"annotations": {"k": "x" * (MAX_TEXT + 1)}}, f"it is longer than {MAX_TEXT} bytes"),
    ({"annotations": {f"k{n}": "" for n in range(MAX_ENTRIES + 1)}}, "1025 entries are more than 1024"),
    ({"env": [{"key": "A=B"}]}, "adjust.env[0]: 'A=B' is not the name of a variable"),
    ({"env": [{"key": "A"}, {"key": "A"}]}, "adjust.env: 'A' is set twice"),
    ({"env": [{"key": "A", "value": "\0"}]}, "adjust.env[0]: it has a NUL in it"),
    ({"mounts": [{"destination": "a"}]}, "adjust.mounts[0].destination: 'a' is not an absolute path"),
    ({"mounts": [{"destination": "/a/../b"}]}, "adjust.mounts[0].destination: '/a/../b' leads upwards"),
    ({"mounts": [{"destination": "/"}]}, "adjust.mounts[0].destination: the root cannot be mounted over"),
    (
        {"mounts": [{"destination": "/a", "source": "b"}]},
        "adjust.mounts[0].source: 'b' is not an absolute path",
    ),
    ({"mounts": [{"destination": "-a"}]}, "adjust.mounts[0]: 'a' is not an absolute path"),
    ({"args": ["", ""]}, "adjust.args: the program is empty"),
    ({"hooks": {"poststop": [{"path": "x"}]}}, "adjust.hooks.poststop[0].path: 'x' is not an absolute path"),
    (
        {"hooks": {"prestart": [{"path": "/x", "timeout": {"value": 0}}]}},
        "adjust.hooks.prestart[0].timeout: 0 is not 1 to 86400",
    ),
    (
        {"rlimits": [{"type": "NOFILE"}]},
        "adjust.rlimits[0].type: 'NOFILE' is not a limit such as RLIMIT_NOFILE",
    ),
    ({"rlimits": [{"type": "RLIMIT_CORE", "hard": 1, "soft": 2}]}, "adjust.rlimits[0].soft: 2 is not 0 to 1"),
    ({"rlimits": [{"type": "RLIMIT_CORE"}] * 2}, "adjust.rlimits: 'RLIMIT_CORE' is set twice"),
    ({"CDI_devices": [{"name": ""}]}, "adjust.CDI_devices[0].name: it is empty"),
    (
        {"linux": {"devices": [{"path": "/dev/x", "type": "x"}]}},
        "adjust.linux.devices[0].type: 'x' is not b, c, u",
    ),
    (
        {"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": -1}]}},
        "adjust.linux.devices[0].major: -1 is not 0 to 4294967295",
    ),
    ({"linux": {"oom_score_adj": {"value": 1001}}}, "adjust.linux.oom_score_adj: 1001 is not -1000 to 1000"),
    ({"linux": {"io_priority": {"priority": 8}}}, "adjust.linux.io_priority.priority: 8 is not 0 to 7"),
    ({"linux": {"io_priority": {"class": 9}}}, "adjust.linux.io_priority.class: 9 is none of the values"),
    ({"linux": {"scheduler": {"nice": 20}}}, "adjust.linux.scheduler.nice: 20 is not -20 to 19"),
    ({"linux": {"scheduler": {"flags": [99]}}}, "adjust.linux.scheduler.flags[0]: 99 is none of the values"),
    ({"linux": {"memory_policy": {"nodes": "a"}}}, "adjust.linux.memory_policy.nodes: 'a' is not a list"),
    ({"linux": {"memory_policy": {"mode": 77}}}, "adjust.linux.memory_policy.mode: 77 is none of the values"),
    (
        {"linux": {"namespaces": [{"type": "mount"}]}},
        "adjust.linux.namespaces[0].type: mount cannot be changed",
    ),
    (
        {"linux": {"namespaces": [{"type": "-user"}]}},
        "adjust.linux.namespaces[0].type: user cannot be changed",
    ),
    ({"linux": {"namespaces": [{"type": "x"}]}}, "'x' is none of cgroup, ipc, network, pid, time, uts"),
    ({"linux": {"sysctl": {"kernel...x": "1"}}}, "adjust.linux.sysctl: 'kernel...x' leads upwards"),
    ({"linux": {"sysctl": {"kernel": "1"}}}, "'kernel' is not a sysctl such as net.ipv4.ip_forward"),
    ({"linux": {"net_devices": {"a/b": {}}}}, "'a/b' is not the name of an interface"),
    ({"linux": {"net_devices": {"eth0": {"name": "x" * 16}}}}, "is not the name of an interface"),
    ({"linux": {"cgroups_path": "../x"}}, "adjust.linux.cgroups_path: '../x' is not an absolute path"),
    ({"linux": {"cgroups_path": "/"}}, "adjust.linux.cgroups_path: a container cannot be in the root cgroup"),
    (
        {"linux": {"rdt": {"clos_id": {"value": "a/b"}}}},
        "adjust.linux.rdt.clos_id: 'a/b' is not the name of a class",
    ),
    (
        {"linux": {"resources": {"pids": {"limit": -2}}}},
        "adjust.linux.resources.pids.limit: -2 is not -1 to 9223372036854775807",
    ),
    (
        {"linux": {"resources": {"memory": {"swappiness": {"value": 201}}}}},
        "adjust.linux.resources.memory.swappiness: 201 is not 0 to 200",
    ),
    (
        {"linux": {"resources": {"cpu": {"shares": {"value": 1 << 63}}}}},
        "adjust.linux.resources.cpu.shares: 9223372036854775808 is not 0 to 9223372036854775807",
    ),
    ({"linux": {"resources": {"unified": {"": "x"}}}}, "adjust.linux.resources.unified: it is empty"),
    (
        {"linux": {"resources": {"rdt_class": {"value": ".."}}}},
        "adjust.linux.resources.rdt_class: '..' is not the name of a class",
    ),
    (
        {"linux": {"resources": {"devices": [{"type": "z"}]}}},
        "adjust.linux.resources.devices[0].type: 'z' is not a, b or c",
    ),
    (
        {"linux": {"seccomp_policy": {"default_action": "SCMP_ACT_NOTIFY"}}},
        "adjust.linux.seccomp_policy.listener_path: SCMP_ACT_NOTIFY asks an agent, and listenerPath is ''",
    ),
    (
        {"linux": {"seccomp_policy": {}}},
        "adjust.linux.seccomp_policy.default_action: '' is not a name that begins with SCMP_ACT_",
    ),
    (
        {
            "linux": {
                "seccomp_policy": {
                    "default_action": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6}]}],
                }
            }
        },
        "adjust.linux.seccomp_policy.syscalls[0].args[0].index: 6 is not 0 to 5",
    ),
]


@pytest.mark.parametrize(("adjust", "said"), BAD, ids=[said[:60] for _, said in BAD])
def test_a_value_that_cannot_be_is_refused_with_its_field_and_plugin(
    adjust: dict[str, Any], said: str
) -> None:
    message = json_format.ParseDict({"adjust": adjust}, pb.CreateContainerResponse())
    with pytest.raises(PluginRefused) as caught:
        create_answer("10-a", message)
    assert str(caught.value).startswith("NRI plugin 10-a, CreateContainer: adjust.")
    assert said in str(caught.value)


def test_updates_and_evictions_name_a_container() -> None:
    with pytest.raises(PluginRefused, match=r"10-a, UpdateContainer: update\[0\].container_id: it is empty"):
        update_answer("10-a", pb.UpdateContainerResponse(update=[pb.ContainerUpdate()]))
    with pytest.raises(PluginRefused, match=r"10-a, StopContainer: update\[0\].container_id: it is empty"):
        stop_answer("10-a", pb.StopContainerResponse(update=[pb.ContainerUpdate()]))
    with pytest.raises(PluginRefused, match=r"10-a, UpdateContainers: evict\[0\].container_id: it is empty"):
        unasked_orders("10-a", pb.UpdateContainersRequest(evict=[pb.ContainerEviction()]))
    limits = {"container_id": "x", "linux": {"resources": {"pids": {"limit": -5}}}}
    update = json_format.ParseDict(limits, pb.ContainerUpdate())
    with pytest.raises(PluginRefused, match=r"10-a, Synchronize: update\[0\].linux.resources.pids.limit: -5"):
        synchronize_updates("10-a", [update])


def test_an_answer_without_an_adjustment_has_no_edits() -> None:
    request = {
        "update": [{"container_id": "x", "linux": {"resources": {"cpu": {"cpus": "3"}}}}],
        "evict": [{"container_id": "y", "reason": "too loud"}],
    }
    answer = create_answer("10-a", json_format.ParseDict(request, pb.CreateContainerResponse()))
    assert answer.edits is None
    assert answer.orders == PluginOrders(
        (ContainerUpdate(ContainerId("x"), ResourceChange(cpuset_cpus="3"), "10-a"),),
        (Eviction(ContainerId("y"), "too loud", "10-a"),),
    )
    assert create_answer("10-a", pb.CreateContainerResponse()).orders == PluginOrders()


def test_a_mount_without_a_type_is_a_bind_mount() -> None:
    made = edits({"mounts": [{"destination": "/a//b/", "source": "/x/."}]})
    assert made.mounts == (AddedMount("/a/b", "/x", "bind", ("rbind",)),)
    made = edits({"mounts": [{"destination": "/a", "source": "/x", "options": ["bind", "ro"]}]})
    assert made.mounts == (AddedMount("/a", "/x", "bind", ("bind", "ro")),)


def test_a_device_belongs_to_root_and_may_be_made_only_if_it_is_a_block_device() -> None:
    made = edits({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]}})
    assert made.devices == (AddedDevice("/dev/x", "c", 1, 3, "rw", None, 0, 0),)
    made = edits({"linux": {"devices": [{"path": "/dev/x", "type": "b"}]}})
    assert made.devices[0].permissions == "rwm"


def test_a_class_of_none_takes_the_priority_away() -> None:
    made = edits({"linux": {"io_priority": {}, "scheduler": {}}})
    spec = container_spec(inputs(edits=(made,)))
    assert (spec.process.io_priority, spec.process.scheduler) == (None, None)


def test_the_mark_of_args_alone_leaves_the_command() -> None:
    made = edits({"args": [""]})
    assert made.removed.args
    assert container_spec(inputs(edits=(made,))).process.args == ("nginx", "-g", "x")


TEXTS = (
    "",
    "-",
    "-x",
    "/",
    "/a",
    "-/dev/shm",
    "..",
    "/..",
    "a=b",
    "\0",
    "ipc",
    "-ipc",
    "RLIMIT_CORE",
    "c",
    "x" * 300,
    "SCMP_ACT_ALLOW",
    "2MB",
    "0-3",
    "memory.high",
    "net.ipv4.ip_forward",
    "vendor.com/gpu=0",
)
PATHS = ("/a", "/a/b", "-/dev/shm", "a", "/x/../y", "")
LIKELY = {
    "type": ("RLIMIT_CORE", "c", "b", "ipc", "-ipc", "bind", ""),
    "path": PATHS,
    "source": PATHS,
    "destination": PATHS,
    "default_action": ("SCMP_ACT_ALLOW", ""),
}
NUMBERS = (0, 1, -1, 5, 1000, 1 << 31, (1 << 63) - 1)


def fill(message: Message, chance: random.Random, depth: int = 0) -> None:
    """Some fields of a message with values of the right kind."""
    fields: Any = message.DESCRIPTOR.fields  # two classes of descriptors have the same methods
    for field in fields:
        if chance.random() < 0.6 or depth > 6:
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key = chance.choice(TEXTS)
            inner = field.message_type.fields_by_name["value"].message_type
            if inner is None:
                value[key] = chance.choice(TEXTS)
            else:
                fill(value[key], chance, depth + 1)
        elif field.is_repeated:
            for _ in range(chance.randrange(4)):
                if field.message_type is not None:
                    fill(value.add(), chance, depth + 1)
                else:
                    value.append(scalar(field, chance))
        elif field.message_type is not None:
            value.SetInParent()
            fill(value, chance, depth + 1)
        else:
            setattr(message, field.name, scalar(field, chance))


def scalar(field: FieldDescriptor, chance: random.Random) -> Any:
    kinds = FieldDescriptor
    if field.cpp_type == kinds.CPPTYPE_STRING:
        return chance.choice(LIKELY.get(field.name, TEXTS))
    if field.cpp_type == kinds.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if field.cpp_type == kinds.CPPTYPE_ENUM:
        return chance.randrange(-1, 10)
    number = chance.choice(NUMBERS)
    if field.cpp_type in (kinds.CPPTYPE_UINT32, kinds.CPPTYPE_UINT64):
        number = abs(number)
    if field.cpp_type in (kinds.CPPTYPE_INT32, kinds.CPPTYPE_UINT32):
        number = min(number, (1 << 31) - 1)
    return number


def parts(message: Message) -> Iterator[pb.ContainerAdjustment]:
    """One with each field of its own: of a whole one nearly always something is refused."""
    for field, _ in message.ListFields():
        if field.name == "linux":
            for below, _ in message.linux.ListFields():  # type: ignore[attr-defined] # it is an adjustment
                part = pb.ContainerAdjustment()
                part.linux.MergeFrom(message.linux)  # type: ignore[attr-defined]
                for other, _ in message.linux.ListFields():  # type: ignore[attr-defined]
                    if other is not below:
                        part.linux.ClearField(other.name)
                yield part
        else:
            part = pb.ContainerAdjustment()
            part.MergeFrom(message)  # type: ignore[arg-type]
            for other, _ in message.ListFields():
                if other is not field:
                    part.ClearField(other.name)  # type: ignore[arg-type]
            yield part


def test_any_adjustment_is_refused_by_name_or_becomes_a_spec_and_is_told_to_validators() -> None:
    chance = random.Random(SEED)
    refused: list[str] = []
    taken: set[str] = set()
    for _ in range(ROUNDS):
        message = pb.ContainerAdjustment()
        fill(message, chance)
        for part in parts(message):
            try:
                made = container_edits("10-a", part)
            except Misfit as error:
                refused.append(error.field)
                continue
            taken.update(field.name for field, _ in part.ListFields())
            with suppress(Broken):
                assert oci.encode(container_spec(inputs(edits=(made,))))
            assert adjustment_message((made,)) is not None
    assert {field.partition(".")[0] for field in refused} == {"adjust"}
    assert taken == {field.name for field in pb.ContainerAdjustment.DESCRIPTOR.fields}
