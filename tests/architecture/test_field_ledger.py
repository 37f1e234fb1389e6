"""Every field of every request is read by its translation, or listed in api.translate.ledger with the reason.

Reading is proven twice. A spy stands in for each message and notes which fields are asked for; and each
field of a full message is changed, which must change what the translation gives (or be refused by it).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from crib.api.calls import Call, nothing
from crib.api.image_service import ImageService
from crib.api.node_service import NodeService
from crib.api.runtime_service import RuntimeService
from crib.api.translate.ledger import NOT_BUILT, UNREAD
from crib.engine.node import Node
from crib.model.errors import InvalidRequest
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2

NOWHERE = cast(Node, SimpleNamespace(streams=None))
RUNTIME = RuntimeService(NOWHERE, "1", "{}/{}".format).calls()
IMAGES = ImageService(NOWHERE).calls()
NODE = NodeService(NOWHERE, "1", "{}/{}".format).calls()
Descriptor = Any  # of a message or service; protobuf's own classes and their types differ by backend
Field = Any  # a FieldDescriptor

SERVICES: list[tuple[Descriptor, dict[str, Call]]] = [
    (api_pb2.DESCRIPTOR.services_by_name["RuntimeService"], RUNTIME),
    (api_pb2.DESCRIPTOR.services_by_name["ImageService"], IMAGES),
    (node_pb2.DESCRIPTOR.services_by_name["Node"], NODE),
]
BUILT = {name: call for _, calls in SERVICES for name, call in calls.items() if name not in NOT_BUILT}

VALID: dict[str, Any] = {
    "Capability.add_capabilities": "CAP_CHOWN",
    "Capability.add_ambient_capabilities": "chown",
    "Capability.drop_capabilities": "ALL",
    "CDIDevice.name": "vendor.com/class=device",
    "CheckpointContainerRequest.location": "/checkpoint.tar",
    "CheckpointPodRequest.output_path": "/checkpoint",
    "RestorePodRequest.checkpoint_path": "/checkpoint",
    "ContainerConfig.working_dir": "/work",
    "Device.container_path": "/dev/a",
    "Device.host_path": "/dev/b",
    "Device.permissions": "rw",
    "EventsRequest.kinds": "pod",
    "ExecAsRequest.working_dir": "/work",
    "ExecDetachedRequest.working_dir": "/work",
    "ExportImagesRequest.format": "oci",
    "ExportImagesRequest.path": "/archive",
    "ForwardRequest.targets": "tcp:80",
    "HugepageLimit.page_size": "2MB",
    "IDMapping.container_id": 0,
    "IDMapping.host_id": 65536,
    "IDMapping.length": 65536,
    "ImageSpec.annotations": {"io.crib.platform": "linux/amd64"},
    "ImportImageRequest.path": "/archive",
    "ForgetKeptPodRequest.name": "web",
    "ForgetKeptPodRequest.namespace": "default",
    "KeepPodRequest.name": "web",
    "KeepPodRequest.namespace": "default",
    "KeepPodRequest.pods_dir": "/pods",
    "KeepPodRequest.uid": "a-b",
    "WantKeptPodRequest.name": "web",
    "WantKeptPodRequest.namespace": "default",
    "LinuxContainerResources.cpu_period": 1000,
    "LinuxContainerResources.cpu_quota": 1000,
    "LinuxContainerResources.cpuset_cpus": "0-1",
    "LinuxContainerResources.cpuset_mems": "0",
    "LinuxContainerResources.unified": {"memory.high": "1"},
    "LinuxContainerSecurityContext.masked_paths": "/proc/a",
    "LinuxContainerSecurityContext.readonly_paths": "/proc/b",
    "Mount.container_path": "/in",
    "Mount.propagation": 0,
    "NamespaceOption.network": 2,
    "NamespaceOption.ipc": 2,
    "NetworkConfig.pod_cidr": "10.0.0.0/24",
    "PodSandboxConfig.log_directory": "/var/log/pod",
    "PortMapping.host_ip": "127.0.0.1",
    "PullProgressRequest.platform": "linux/amd64",
    "SecurityProfile.profile_type": 2,
    "SecurityProfile.localhost_ref": "/profile",
    "SetLogLevelRequest.level": "debug",
    "UserNamespace.mode": 0,
    "ExportVolumeRequest.path": "/archive",
    "ImportVolumeRequest.path": "/archive",
    "ListVolumesRequest.path": "/published",
    "PublishVolumesRequest.pod_files": "/pods/a",
    "VolumeSpec.access_modes": "ReadWriteOnce",
    "VolumeSpec.reclaim": "Retain",
    "VolumeSpec.secrets": {"key": "/secret"},
    "WipeRequest.kinds": "pods",
}
"""What a field is filled with where the kind's own value would be refused."""

# fields that exclude each other: each variant leaves some out
VARIANTS: list[dict[str, Any]] = [
    {
        "EventsRequest.since": None,
        "ExplainContainerRequest.container_id": None,
        "Mount.image": None,
        "Mount.image_sub_path": None,
        "Mount.host_path": "/host",
        "LinuxContainerSecurityContext.run_as_username": None,
        "NamespaceOption.pid": 1,
        "NamespaceOption.target_id": None,
    },
    {
        "EventsRequest.after": None,
        "ExplainContainerRequest.config": None,
        "ExplainContainerRequest.sandbox_config": None,
        "ExplainContainerRequest.runtime_handler": None,
        "Mount.host_path": None,
        "LinuxContainerSecurityContext.run_as_user": None,
        "LinuxContainerSecurityContext.seccomp": None,
        "LinuxContainerSecurityContext.seccomp_profile_path": "localhost//profile",
        "LinuxContainerSecurityContext.apparmor": None,
        "LinuxContainerSecurityContext.apparmor_profile": "localhost/profile",
        "LinuxSandboxSecurityContext.seccomp": None,
        "LinuxSandboxSecurityContext.seccomp_profile_path": "localhost//profile",
        "NamespaceOption.pid": 3,
        "NamespaceOption.target_id": "abcd",
        "pod NamespaceOption.pid": 1,
        "pod NamespaceOption.target_id": None,
    },
]


def key(field: Field) -> str:
    return f"{field.containing_type.name}.{field.name}"


def is_map(field: Field) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def fill(message: Message, chosen: dict[str, Any], place: str = "") -> Message:
    """Set every field, recursively; repeated ones get one element."""
    if message.DESCRIPTOR.name == "PodSandboxConfig":
        place = "pod "
    for field in message.DESCRIPTOR.fields:
        name = key(field)
        value = chosen.get(place + name, chosen.get(name, VALID.get(name, ...)))
        if value is None:
            continue
        if is_map(field):
            getattr(message, field.name).update({"key": "value"} if value is ... else value)
        elif field.message_type:
            target = getattr(message, field.name)
            fill(target.add() if field.is_repeated else target, chosen, place)
            if not field.is_repeated:
                target.SetInParent()
        else:
            value = plain(field) if value is ... else value
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


def plain(field: Field) -> Any:
    kinds = {
        FieldDescriptor.CPPTYPE_STRING: b"value" if field.type == FieldDescriptor.TYPE_BYTES else "value",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_ENUM: 1,
    }
    return kinds.get(field.cpp_type, 1)


def samples(call: Call) -> list[Message]:
    return [fill(call.request(), variant) for variant in VARIANTS]


class Spy:
    """Stands in for a message and notes the fields that are asked for. It can do nothing else wholesale."""

    def __init__(self, message: Message, seen: set[str]) -> None:
        self._message = message
        self._seen = seen

    def HasField(self, name: str) -> bool:  # noqa: N802  protobuf names it so
        return self._message.HasField(name)

    def ByteSize(self) -> int:  # noqa: N802  likewise; a size tells of no field
        return self._message.ByteSize()

    def __getattr__(self, name: str) -> Any:
        field = self._message.DESCRIPTOR.fields_by_name[name]
        self._seen.add(key(field))
        value = getattr(self._message, name)
        if is_map(field):
            return dict(value)
        if not field.message_type:
            return list(value) if field.is_repeated else value
        if field.is_repeated:
            return [Spy(element, self._seen) for element in value]
        return Spy(value, self._seen)


def read_fields() -> set[str]:
    seen: set[str] = set()
    for name, call in BUILT.items():
        for sample in samples(call):
            try:
                call.decode(Spy(sample, seen))
            except InvalidRequest as error:
                pytest.fail(f"the full message of {name} is refused: {error}")
    return seen


def reachable(message: Descriptor) -> Iterator[Field]:
    """Fields of a request, and of its parts that are not listed as unread."""
    for field in message.fields:
        yield field
        if field.message_type and not is_map(field) and key(field) not in UNREAD:
            yield from reachable(field.message_type)


def request_fields() -> set[str]:
    return {key(field) for call in BUILT.values() for field in reachable(call.request.DESCRIPTOR)}


def test_every_call_of_the_interface_is_served_or_listed_as_not_built() -> None:
    for service, calls in SERVICES:
        assert set(calls) == {method.name for method in service.methods}
        for method in service.methods:
            assert calls[method.name].request.DESCRIPTOR.name == method.input_type.name
    methods = {method.name for service, _ in SERVICES for method in service.methods}
    assert set(NOT_BUILT) <= methods


def test_every_request_field_is_read_or_listed() -> None:
    assert sorted(request_fields() - read_fields() - set(UNREAD)) == []


def test_no_listed_field_is_read() -> None:
    assert sorted(set(UNREAD) & read_fields()) == []


def test_every_listed_field_is_one_of_a_request() -> None:
    assert sorted(set(UNREAD) - request_fields()) == []
    assert all(UNREAD.values())
    assert all(NOT_BUILT.values())


def leaves(message: Message) -> Iterator[tuple[str, tuple[str, ...], Field]]:
    """Every field that is not a message and can be changed, as (key, path, field)."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated and not value:
            continue
        if field.message_type and not is_map(field):
            if key(field) not in UNREAD and (field.is_repeated or message.HasField(field.name)):
                for name, path, leaf in leaves(value[0] if field.is_repeated else value):
                    yield name, (field.name, *path), leaf
        else:
            yield key(field), (field.name,), field


def change(message: Message, path: tuple[str, ...]) -> Message:
    """A copy in which the field at `path` is different."""
    changed = copy.deepcopy(message)
    target: Any = changed
    for step in path[:-1]:
        target = getattr(target, step)
        if not isinstance(target, Message):
            target = target[0]
    field = target.DESCRIPTOR.fields_by_name[path[-1]]
    value = getattr(target, field.name)
    if is_map(field):
        value[next(iter(value))] += "0"
    elif field.is_repeated:
        value.append(other(field, value[0]))
    else:
        setattr(target, field.name, other(field, value))
    return changed


def other(field: Field, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1 if field.cpp_type != FieldDescriptor.CPPTYPE_ENUM or not value else 0
    return value + (b"0" if isinstance(value, bytes) else "0")


def outcome(call: Call, message: Message) -> object:
    try:
        return call.decode(message)
    except InvalidRequest as error:
        return str(error)


def test_changing_a_field_that_is_read_changes_what_the_translation_gives() -> None:
    effective: set[str] = set()
    for call in BUILT.values():
        if call.decode is nothing:
            continue
        for sample in samples(call):
            base = outcome(call, sample)
            effective |= {
                name for name, path, _ in leaves(sample) if outcome(call, change(sample, path)) != base
            }
    scalar = {
        key(field)
        for call in BUILT.values()
        for field in reachable(call.request.DESCRIPTOR)
        if not field.message_type or is_map(field)
    }
    assert sorted(scalar - set(UNREAD) - effective) == []
    assert sorted(effective & set(UNREAD)) == []


def test_the_spy_notices_a_field_that_nobody_reads() -> None:
    seen: set[str] = set()
    spy = Spy(fill(api_pb2.StopContainerRequest(), {}), seen)
    assert spy.container_id == "value"
    assert seen == {"StopContainerRequest.container_id"}
