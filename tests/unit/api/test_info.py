"""What verbose answers tell, in the shape that readers of containerd's and CRI-O's look for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format

from crib.api.translate import configs, containers, info, sandboxes
from crib.model.container import ContainerState
from crib.model.sandbox import ProcessIdentity, SandboxState
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.unit.api.fake_node import container, sandbox

RANGES = [{"host_id": 100000, "container_id": 0, "length": 65536}]
SECURITY: dict[str, Any] = {
    "privileged": True,
    "namespace_options": {"pid": "TARGET", "ipc": "NODE", "target_id": "abcd"},
    "selinux_options": {"user": "u", "role": "r", "type": "t", "level": "s0"},
    "run_as_user": {"value": 0},
    "run_as_group": {"value": 5},
    "readonly_rootfs": True,
    "supplemental_groups": [7],
    "supplemental_groups_policy": "Strict",
    "seccomp": {"profile_type": "Localhost", "localhost_ref": "/p.json"},
    "apparmor": {"profile_type": "Unconfined"},
}
LIMITS: dict[str, Any] = {
    "cpu_quota": 5000,
    "memory_limit_in_bytes": "1099511627776",
    "hugepage_limits": [{"page_size": "2MB", "limit": "3"}],
    "unified": {"memory.high": "1"},
}
CONTAINER: dict[str, Any] = {
    "metadata": {"name": "c", "attempt": 2},
    "image": {"image": "busybox", "user_specified_image": "busybox:1"},
    "command": ["a"],
    "args": ["b"],
    "working_dir": "/w",
    "envs": [{"key": "A", "value": "Yg=="}],
    "mounts": [
        {
            "container_path": "/in",
            "host_path": "/h",
            "propagation": "PROPAGATION_BIDIRECTIONAL",
            "uidMappings": RANGES,
        }
    ],
    "devices": [{"container_path": "/dev/x", "host_path": "/dev/y", "permissions": "r"}],
    "labels": {"l": "1"},
    "annotations": {"a": "1"},
    "log_path": "c/0.log",
    "stdin": True,
    "stdin_once": True,
    "tty": True,
    "linux": {
        "resources": LIMITS,
        "security_context": {
            **SECURITY,
            "capabilities": {
                "add_capabilities": ["ALL"],
                "drop_capabilities": ["CHOWN"],
                "add_ambient_capabilities": ["KILL"],
            },
            "no_new_privs": True,
            "masked_paths": ["/m"],
            "readonly_paths": ["/r"],
        },
    },
    "CDI_devices": [{"name": "a/b=c"}],
    "stop_signal": 2,
}
POD: dict[str, Any] = {
    "metadata": {"name": "p", "uid": "u", "namespace": "n", "attempt": 1},
    "hostname": "h",
    "log_directory": "/l",
    "dns_config": {"servers": ["1.1.1.1"], "searches": ["s"], "options": ["o"]},
    "port_mappings": [{"protocol": "UDP", "container_port": 5, "host_port": 6, "host_ip": "127.0.0.1"}],
    "labels": {"l": "1"},
    "annotations": {"a": "1"},
    "linux": {
        "cgroup_parent": "/k",
        "security_context": {
            **SECURITY,
            "namespace_options": {
                "pid": "CONTAINER",
                "userns_options": {"mode": "POD", "uids": RANGES, "gids": RANGES},
            },
        },
        "sysctls": {"net.a": "1"},
        "overhead": LIMITS,
        "resources": {"cpu_shares": 3},
    },
}


def opened(answer: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer["info"])
    return found


def made_container() -> pb.ContainerConfig:
    return json_format.ParseDict(CONTAINER, pb.ContainerConfig())


def test_a_containers_config_is_shown_as_it_was_given() -> None:
    message = made_container()
    record = container(config=containers.config(message, "config"))
    assert configs.of_container(record) == message


def test_a_pods_config_is_shown_as_it_was_given() -> None:
    message = json_format.ParseDict(POD, pb.PodSandboxConfig())
    assert configs.of_sandbox(sandbox(config=sandboxes.config(message, "config"))) == message


def test_no_field_of_a_config_was_forgotten_here() -> None:
    """A new field that is decoded must be shown, so it must be in the messages of these tests."""
    unread = {"windows", "sandbox_config"}
    deprecated = {"seccomp_profile_path", "apparmor_profile"}
    alternatives = {"run_as_username", "image", "image_sub_path"}
    for message in (made_container(), json_format.ParseDict(POD, pb.PodSandboxConfig())):
        linux = message.linux
        for part in (message, linux, linux.security_context):
            absent = {f.name for f in part.DESCRIPTOR.fields} - {f.name for f, _ in part.ListFields()}
            assert absent <= unread | deprecated | alternatives


def test_a_config_is_written_as_gos_encoder_does_it() -> None:
    shown = configs.plain(made_container())
    assert shown["envs"] == [{"key": "A", "value": "b"}]
    assert shown["labels"] == {"l": "1"}
    assert shown["mounts"][0]["propagation"] == 2
    assert shown["mounts"][0]["uidMappings"][0]["length"] == 65536
    limits = shown["linux"]["resources"]
    assert (limits["memory_limit_in_bytes"], "cpu_shares" in limits) == (1 << 40, False)
    context = shown["linux"]["security_context"]
    assert (context["privileged"], context["run_as_user"]) == (True, {})  # Go leaves a 0 out
    assert shown["CDI_devices"] == [{"name": "a/b=c"}]


def test_a_container_is_told_of_as_the_peers_do_it() -> None:
    record = container(config=containers.config(made_container(), "config"))
    shown = opened(info.of_container(record, b'{"process": {"terminal": true}}'))
    assert (shown["sandboxID"], shown["pid"], shown["removing"]) == (record.sandbox_id, 42, False)
    assert (shown["privileged"], shown["runtimeSpec"]) == (True, {"process": {"terminal": True}})
    assert shown["config"]["metadata"] == {"name": "c", "attempt": 2}


def test_the_pid_of_what_has_ended_may_be_anothers_and_is_not_told() -> None:
    shown = opened(info.of_container(container(state=ContainerState.EXITED), b""))
    assert (shown["pid"], shown["runtimeSpec"]) == (0, None)


NET = b'{"linux": {"namespaces": [{"type": "network", "path": "/n"}]}}'
NO_NET = b'{"linux": {"namespaces": []}}'


@pytest.mark.parametrize(
    ("infra", "state", "spec", "told"),
    [
        (None, SandboxState.READY, NET, (0, "", False)),
        (ProcessIdentity(7, 1), SandboxState.READY, NET, (7, "running", False)),
        (ProcessIdentity(7, 1), SandboxState.NOT_READY, NO_NET, (0, "deleted", True)),
        (None, SandboxState.NOT_READY, NO_NET, (0, "deleted", True)),
    ],
)
def test_a_pod_is_told_of_as_the_peers_do_it(
    infra: ProcessIdentity | None, state: SandboxState, spec: bytes, told: tuple[object, ...]
) -> None:
    shown = opened(info.of_sandbox(sandbox(infra=infra, state=state), spec, ()))
    assert (shown["pid"], shown["processStatus"], shown["netNamespaceClosed"]) == told
    assert shown["runtimeSpec"] == json.loads(spec)
    addresses = shown["cniResult"]["Interfaces"]["eth0"]["IPConfigs"]
    assert addresses == [{"IP": "10.88.0.2"}, {"IP": "fd00::2"}]
    assert shown["config"]["metadata"]["namespace"] == "space"


def test_a_pod_of_the_nodes_network_has_none_that_is_closed() -> None:
    config = sandbox().config
    message = json_format.ParseDict(
        {
            "metadata": {"name": "p"},
            "linux": {"security_context": {"namespace_options": {"network": "NODE"}}},
        },
        pb.PodSandboxConfig(),
    )
    record = sandbox(config=replace(config, security=sandboxes.config(message, "config").security))
    shown = opened(info.of_sandbox(record, NO_NET, ()))
    assert (shown["netNamespaceClosed"], shown["cniResult"]) == (False, None)
