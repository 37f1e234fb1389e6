"""The drawn requests reach every call and field, and nothing of this machine."""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.fuzz.requests import METHODS, OddRequests, World
from tests.fuzz.shrinking import smaller
from tests.fuzz.taming import Haven, tame

HAVEN = Haven("/tmp/haven", "/tmp/root/logs", "/crib-fuzz", "100.64.7.0/24")
WORLD = World("localhost:1/x:1", ["a" * 64], ["b" * 64])
CRI = Path(__file__).resolve().parents[1] / "architecture" / "cri_v1.json"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
DRAWS = {"CreateContainer": 500, "RunPodSandbox": 300, "ExplainContainer": 300}
OTHER_DRAWS = 40
SAMPLE = 3
"""Elements of a list that are looked at: there may be 100,000, made from one."""


def drawn() -> Iterator[Message]:
    requests = OddRequests(random.Random("tame"), HAVEN)
    for name in METHODS:
        for _ in range(DRAWS.get(name, OTHER_DRAWS)):
            yield requests.request(name, WORLD)


def parts(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type and not field.message_type.GetOptions().map_entry:
            for part in value[:SAMPLE] if field.is_repeated else (value,):
                yield from parts(part)


def within(path: str, top: str) -> bool:
    return not path.startswith("/") or f"{path}/".startswith(f"{top}/")


def test_every_call_of_the_cri_and_of_the_node_is_drawn() -> None:
    facts = json.loads(CRI.read_text())
    wanted = {call["rpc"] for calls in facts["services"].values() for call in calls}
    wanted |= set(node_pb2.DESCRIPTOR.services_by_name["Node"].methods_by_name)
    assert set(METHODS) == wanted


def test_every_field_of_every_request_is_set_in_some_of_them() -> None:
    def fields(descriptor: Any, seen: set[str]) -> Iterator[str]:
        if descriptor.full_name in seen:
            return
        seen.add(descriptor.full_name)
        for field in descriptor.fields:
            if field.message_type and field.message_type.GetOptions().map_entry:
                yield field.full_name
            elif field.message_type:
                yield from fields(field.message_type, seen)
            else:
                yield field.full_name

    wanted = {name for method in METHODS.values() for name in fields(method.input_type, set())}
    found: set[str] = set()
    for message in drawn():
        for part in parts(message):
            found |= {field.full_name for field, _ in part.ListFields()}
    assert sorted(wanted - found) == []


def test_no_request_names_anything_of_this_machine() -> None:
    for message in drawn():
        for part in parts(message):
            if isinstance(part, pb.Mount):
                assert within(part.host_path, HAVEN.top)
            if isinstance(part, pb.Device):
                assert part.host_path in DEVICES or within(part.host_path, HAVEN.top)
            if isinstance(part, pb.SecurityProfile):
                assert within(part.localhost_ref.removeprefix("localhost/"), HAVEN.top)
            if isinstance(part, pb.LinuxSandboxSecurityContext | pb.LinuxContainerSecurityContext):
                assert within(part.seccomp_profile_path.removeprefix("localhost/"), HAVEN.top)
            if isinstance(part, node_pb2.ImportImageRequest | node_pb2.ExportImagesRequest):
                assert within(part.path, HAVEN.top)
            if isinstance(part, pb.PodSandboxConfig):
                assert within(part.log_directory, HAVEN.logs)
                parent = part.linux.cgroup_parent
                assert not parent or parent.startswith(f"{HAVEN.cgroup}/fuzz/")
                assert not parent.endswith(".slice")
                assert all(
                    port.host_ip not in ("", "0.0.0.0", "::", "127.0.0.1") for port in part.port_mappings
                )
            if isinstance(part, pb.NetworkConfig):
                assert all(_is_harmless(text) for text in part.pod_cidr.split(","))


def _is_harmless(text: str) -> bool:
    try:
        network: Any = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return True
    return bool(network.version == 4 and network.subnet_of(ipaddress.ip_network(HAVEN.subnet)))


@pytest.mark.parametrize("mode", ["network", "ipc"])
def test_a_pod_with_a_namespace_of_the_node_gets_no_sysctl_that_there_is(mode: str) -> None:
    request = pb.RunPodSandboxRequest()
    setattr(request.config.linux.security_context.namespace_options, mode, pb.NODE)
    request.config.linux.sysctls.update(
        {"kernel.msgmax": "1", "net.core.somaxconn": "1", "vm.overcommit_memory": "1"}
    )
    tame(request, HAVEN)
    assert all(key.startswith("fuzz.") for key in request.config.linux.sysctls)


def test_a_seed_gives_the_same_requests_again() -> None:
    one, other = (OddRequests(random.Random("seed"), HAVEN) for _ in range(2))
    for name in METHODS:
        assert one.request(name, WORLD) == other.request(name, WORLD)


def test_a_failing_request_can_be_made_as_small_as_what_makes_it_fail() -> None:
    request: Message = OddRequests(random.Random("long"), HAVEN).request("CreateContainer", WORLD, 6)
    assert isinstance(request, pb.CreateContainerRequest)
    request.config.args.extend(["a", "guilty", "b"])
    while True:
        less = next((each for each in smaller(request) if "guilty" in each.config.args), None)  # type: ignore[attr-defined]
        if less is None:
            break
        request = less
    assert [field.name for field, _ in request.ListFields()] == ["config"]
    assert [field.name for field, _ in request.config.ListFields()] == ["args"]  # type: ignore[attr-defined]
