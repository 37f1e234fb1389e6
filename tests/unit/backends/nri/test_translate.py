"""What plugins are shown of pods and containers, and what validators are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from crib.backends.nri.translate import change_message, container_message, pod_message, update_message
from crib.backends.nri.translate_adjustment import container_edits
from crib.backends.nri.translate_answers import create_answer, synchronize_updates
from crib.backends.nri.translate_validation import adjustment_message, validation_request
from crib.model.container import ContainerRecord, ContainerState
from crib.model.ids import ContainerId, ImageId
from crib.model.plugins import ShownContainer, ShownPod
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import (
    NetworkAttachment,
    ProcessIdentity,
    ProfileType,
    Resources,
    SecurityProfile,
)
from crib.ocispec.adjust import Answers
from crib.ocispec.container import container_spec
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.wire import oci_runtime as oci
from tests.unit.backends.nri.adjustment_cases import CASES
from tests.unit.ocispec.inputs_for_tests import HOST, inputs, sandbox

MIB = 1 << 20
ID = ContainerId("c" * 64)
RESOURCES = Resources(
    cpu_shares=512,
    cpu_quota=5000,
    cpu_period=50_000,
    memory_limit_in_bytes=64 * MIB,
    memory_swap_limit_in_bytes=96 * MIB,
    cpuset_cpus="0-1",
    oom_score_adj=500,
)


def as_dict(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def shown(layout: str = "v1", **fields: Any) -> ShownContainer:
    plain = inputs()
    config = replace(
        plain.config,
        image="docker.io/library/nginx@sha256:1",
        user_specified_image="nginx:1",
        resources=RESOURCES,
        labels={"app": "web"},
        annotations={"note": "mine"},
        cdi_devices=("vendor.com/gpu=0",),
        security=replace(plain.config.security, seccomp=SecurityProfile(ProfileType.LOCALHOST, "/p.json")),
    )
    profile = oci.encode(
        oci.Seccomp("SCMP_ACT_ERRNO", 1, syscalls=(oci.SeccompRule(("read",), "SCMP_ACT_ALLOW"),))
    )
    made = container_spec(
        replace(plain, config=config, host=replace(HOST, cgroup_layout=layout), seccomp_profile=profile)
    )
    record = ContainerRecord(
        id=ID,
        sandbox_id=plain.sandbox.id,
        config=config,
        state=ContainerState.RUNNING,
        created_at=11,
        image_id=ImageId("sha256:" + "a" * 64),
        image_ref="docker.io/library/nginx@sha256:" + "b" * 64,
        layers=(),
        resources=RESOURCES,
        process=ProcessIdentity(42, 1),
        started_at=12,
        finished_at=13,
        exit_code=14,
        reason="Error",
        message="it fell over",
    )
    return ShownContainer(replace(record, **fields), oci.encode(made))


def test_a_pod_is_shown_whole() -> None:
    record = replace(
        sandbox(),
        infra=ProcessIdentity(7, 1),
        network=NetworkAttachment(("10.0.0.2", "fd00::2")),
        config=replace(
            sandbox().config,
            labels={"a": "b"},
            annotations={"c": "d"},
            cgroup_parent="/kubepods/pod1",
            overhead=Resources(cpu_shares=2),
            resources=Resources(memory_limit_in_bytes=5),
        ),
    )
    linux = oci.Linux(namespaces=(oci.Namespace("network", "/run/ns"),), cgroups_path="/kubepods/pod1/x")
    spec = oci.Spec("1.0.2", oci.Process(oci.User(0, 0), ("a",), "/"), oci.Root("/r"), linux)
    assert as_dict(pod_message(ShownPod(record, oci.encode(spec)))) == {
        "id": record.id,
        "name": "web",
        "uid": "uid-1",
        "namespace": "shop",
        "labels": {"a": "b"},
        "annotations": {"c": "d"},
        "runtime_handler": "crun",
        "pid": 7,
        "ips": ["10.0.0.2", "fd00::2"],
        "linux": {
            "pod_overhead": {"memory": {}, "cpu": {"shares": {"value": "2"}}},
            "pod_resources": {"memory": {"limit": {"value": "5"}}, "cpu": {}},
            "cgroup_parent": "/kubepods/pod1",
            "cgroups_path": "/kubepods/pod1/x",
            "namespaces": [{"type": "network", "path": "/run/ns"}],
        },
    }


def test_a_pod_whose_spec_is_gone_is_shown_too() -> None:
    message = pod_message(ShownPod(sandbox()))
    assert (message.name, message.pid, list(message.linux.namespaces)) == ("web", 0, [])


def test_a_container_is_shown_whole() -> None:
    message = as_dict(container_message(shown()))
    linux = message.pop("linux")
    for long in ("mounts", "env", "annotations"):
        assert message.pop(long)
    assert message == {
        "id": ID,
        "pod_sandbox_id": "5" * 64,
        "name": "nginx",
        "state": "CONTAINER_RUNNING",
        "labels": {"app": "web"},
        "args": ["nginx", "-g", "x"],
        "hooks": {},
        "pid": 42,
        "rlimits": message["rlimits"],
        "created_at": "11",
        "started_at": "12",
        "finished_at": "13",
        "exit_code": 14,
        "status_reason": "Error",
        "status_message": "it fell over",
        "CDI_devices": [{"name": "vendor.com/gpu=0"}],
        "user": message["user"],
        "image": {
            "name": "nginx:1",
            "digest": "sha256:" + "b" * 64,
            "config_digest": "sha256:" + "a" * 64,
        },
    }
    assert linux["oom_score_adj"] == {"value": "500"}
    assert linux["cgroups_path"] == "/kubepods/pod1/c"
    assert linux["seccomp_profile"] == {"profile_type": "LOCALHOST", "localhost_ref": "/p.json"}
    assert linux["seccomp_policy"]["syscalls"] == [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]
    assert {one["type"] for one in linux["namespaces"]} >= {"mount", "network", "ipc", "uts", "pid"}


def test_plugins_see_all_annotations_and_variables() -> None:
    message = container_message(shown())
    assert message.annotations["note"] == "mine"
    assert message.annotations["io.kubernetes.cri.sandbox-name"] == "web"
    assert "A=image" in message.env


def test_limits_are_shown_as_such_on_every_layout_of_cgroups() -> None:
    for layout in ("v1", "v2"):
        limits = container_message(shown(layout)).linux.resources
        assert limits.cpu.shares.value == 512
        assert limits.cpu.quota.value == 5000
        assert limits.cpu.cpus == "0-1"
        assert limits.memory.limit.value == 64 * MIB
        assert limits.memory.swap.value == 96 * MIB
        assert not limits.unified, "what stands in a field is not told twice"


def test_limits_that_were_changed_later_are_those_that_are_shown() -> None:
    limits = container_message(shown(resources=replace(RESOURCES, cpu_shares=99))).linux.resources
    assert limits.cpu.shares.value == 99


def test_states() -> None:
    told = {state: container_message(shown(state=state)).state for state in ContainerState}
    assert told == {
        ContainerState.CREATING: pb.CONTAINER_UNKNOWN,
        ContainerState.CREATED: pb.CONTAINER_CREATED,
        ContainerState.RUNNING: pb.CONTAINER_RUNNING,
        ContainerState.EXITED: pb.CONTAINER_STOPPED,
        ContainerState.UNKNOWN: pb.CONTAINER_UNKNOWN,
        ContainerState.REMOVING: pb.CONTAINER_STOPPED,
    }


def test_a_container_whose_spec_is_gone_is_shown_by_its_record() -> None:
    message = container_message(replace(shown(), spec=b""))
    assert (message.name, message.linux.resources.cpu.shares.value) == ("nginx", 512)


def test_what_a_base_spec_has_that_the_protocol_has_not_hides_no_container() -> None:
    newer = json.loads(shown().spec)
    newer["process"]["scheduler"] = {"policy": "SCHED_EXT", "flags": ["SCHED_FLAG_NEW"], "nice": 3}
    newer["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_NEW", "priority": 2}
    linux = container_message(replace(shown(), spec=json.dumps(newer).encode())).linux
    assert (linux.scheduler.policy, linux.scheduler.nice, linux.io_priority.priority) == (0, 3, 2)
    newer["process"]["rlimits"] = [{"type": "RLIMIT_CORE"}]
    assert container_message(replace(shown(), spec=json.dumps(newer).encode())).name == "nginx"
    assert pod_message(ShownPod(sandbox(), b"{}")).name == "web"


def test_the_next_plugin_sees_the_container_as_it_is_adjusted_so_far() -> None:
    adjust = pb.ContainerAdjustment()
    for case in CASES.values():
        if "rdt" not in case.pointer and "cgroups" not in case.pointer:
            adjust.MergeFrom(json_format.ParseDict(case.message, pb.ContainerAdjustment()))
    repeated: list[Any] = [adjust.mounts, adjust.env, adjust.rlimits, adjust.CDI_devices]
    repeated += [adjust.linux.devices, adjust.linux.namespaces, adjust.linux.resources.hugepage_limits]
    for entries in repeated:
        del entries[1:]
    del adjust.linux.memory_policy.flags[1:]
    adjust.args[:] = ["/bin/x"]
    adjust.annotations["-note"] = ""
    message = container_message(shown(), (container_edits("10-a", adjust),))
    assert list(message.args) == ["/bin/x"]
    assert "NEW=1" in message.env
    assert message.annotations["a.b/c"] == "x"
    assert "note" not in message.annotations
    assert "/new/a/b/c" in [one.destination for one in message.mounts]
    assert "/dev/new" in [one.path for one in message.linux.devices]
    assert message.hooks.poststop[-1].path == "/bin/h"
    linux = message.linux
    assert linux.resources.cpu.shares.value == 512
    assert linux.resources.memory.kernel_tcp.value == 8
    assert linux.resources.blockio_class.value == "slow"
    assert linux.oom_score_adj.value == 123
    assert getattr(linux.io_priority, "class") == pb.IOPRIO_CLASS_IDLE
    assert linux.scheduler.policy == pb.SCHED_DEADLINE
    assert list(linux.scheduler.flags)[:1] == [pb.SCHED_FLAG_RECLAIM]
    assert linux.seccomp_policy.listener_metadata == "who"
    assert linux.net_devices["eth7"].name == "net0"
    assert linux.sysctl["net.core.somaxconn"] == "5"


def test_a_change_of_limits_is_told_as_it_was_asked_for() -> None:
    change = ResourceChange(
        memory_limit=5, cpu_shares=2, pids_limit=3, unified={"a.b": "c"}, rdt_class="gold", blockio_class=""
    )
    assert as_dict(change_message(change)) == {
        "memory": {"limit": {"value": "5"}},
        "cpu": {"shares": {"value": "2"}},
        "unified": {"a.b": "c"},
        "pids": {"limit": "3"},
        "rdt_class": {"value": "gold"},
        "blockio_class": {},
    }


def test_an_update_goes_there_and_back() -> None:
    limits = {
        "memory": {"limit": {"value": "5"}, "swap": {"value": "6"}, "disable_oom_killer": {"value": True}},
        "cpu": {"quota": {"value": "-1"}, "cpus": "0", "realtime_period": {"value": "4"}},
        "hugepage_limits": [{"page_size": "2MB", "limit": "7"}],
        "blockio_class": {"value": "slow"},
        "rdt_class": {"value": "gold"},
        "unified": {"a.b": "c"},
        "pids": {"limit": "-1"},
    }
    told = {"container_id": "x", "linux": {"resources": limits}, "ignore_failure": True}
    (update,) = synchronize_updates("10-a", [json_format.ParseDict(told, pb.ContainerUpdate())])
    assert as_dict(update_message(update)) == told


def answer(plugin: str, adjust: dict[str, Any]) -> Any:
    message = json_format.ParseDict({"adjust": adjust}, pb.CreateContainerResponse())
    return create_answer(plugin, message)


def test_validators_see_what_is_left_of_all_adjustments_and_whose_it_is() -> None:
    answers = Answers(ID, creating=True)
    first = {
        "annotations": {"k": "1", "l": "1"},
        "env": [{"key": "A", "value": "1"}, {"key": "B", "value": "1"}],
        "mounts": [{"destination": "/a", "source": "/x"}],
        "hooks": {"poststop": [{"path": "/bin/h"}]},
        "args": ["a"],
        "linux": {"oom_score_adj": {"value": "5"}, "rdt": {"clos_id": {"value": "x"}}},
    }
    second = {
        "annotations": {"-k": "", "k": "2"},
        "env": [{"key": "-A"}],
        "mounts": [{"destination": "-/a"}],
        "hooks": {"poststop": [{"path": "/bin/i"}]},
        "args": ["", "b"],
        "linux": {"rdt": {"remove": True, "enable_monitoring": {"value": False}}},
    }
    answers.add(answer("10-a", first))
    answers.add(answer("20-b", second))
    request = as_dict(validation_request(ShownPod(sandbox()), shown(), answers, (("10", "a"), ("20", "b"))))
    env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    hooks = request["adjust"].pop("hooks")["poststop"]
    assert [(one["path"], set(one["env"])) for one in hooks] == [("/bin/h", env), ("/bin/i", env)]
    assert request["adjust"] == {
        "annotations": {"k": "2", "l": "1"},
        "env": [{"key": "B", "value": "1"}, {"key": "-A"}],
        "mounts": [{"destination": "-/a"}],
        "args": ["b"],
        "linux": {
            "resources": {"memory": {}, "cpu": {}},
            "oom_score_adj": {"value": "5"},
            "rdt": {"enable_monitoring": {}},
        },
    }
    assert request["owners"]["owners"][ID] == {
        "simple": {"3": "10-a,20-b", "7": "20-b", "29": "10-a", "37": "-20-b", "39": "20-b"},
        "compound": {
            "1": {"owners": {"k": "20-b", "l": "10-a"}},
            "2": {"owners": {"/a": "-20-b"}},
            "6": {"owners": {"A": "-20-b", "B": "10-a"}},
        },
    }
    assert request["plugins"] == [{"name": "a", "index": "10"}, {"name": "b", "index": "20"}]
    assert request["container"]["name"] == "nginx"


def test_what_one_plugin_adjusts_is_shown_to_validators_as_it_was_said() -> None:
    for field, case in CASES.items():
        if field.startswith(("hooks", "linux.rdt")):  # these are told in our words
            continue
        message = json_format.ParseDict(case.message, pb.ContainerAdjustment())
        told = adjustment_message((container_edits("10-a", message),))
        for empty in (told, message):
            empty.linux.resources.memory.SetInParent()
            empty.linux.resources.cpu.SetInParent()
            empty.hooks.SetInParent()
        assert as_dict(told) == as_dict(message), field
