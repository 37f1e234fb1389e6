"""Our runtime.v1 is the kubelet's: every message, field, number, enum value and call, and nothing more.

cri_v1.json holds the facts of Kubernetes' Container Runtime Interface. Both sides are flattened to
"path: description" and compared whole, so a difference shows as the one line that differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from crib.stubs.node.v1 import node_pb2, node_pb2_grpc
from crib.stubs.runtime.v1 import api_pb2, api_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
FACTS: dict[str, Any] = json.loads(Path(__file__).with_name("cri_v1.json").read_text())
PACKAGE = ".runtime.v1"


def flattened_facts(facts: dict[str, Any]) -> dict[str, str]:
    """What cri_v1.json says."""
    lines = {"package": facts["package"], "syntax": facts["syntax"]}
    for service, calls in facts["services"].items():
        lines[service] = "service"
        for call in calls:
            reply = ("stream " if call.get("response_stream") else "") + f"{PACKAGE}.{call['response']}"
            request = ("stream " if call.get("request_stream") else "") + f"{PACKAGE}.{call['request']}"
            lines[f"{service}.{call['rpc']}()"] = f"{request} -> {reply}"
    lines |= _enum_facts("", facts["enums"])
    for message, content in facts["messages"].items():
        lines[message] = "message"
        own_enums = content.get("enums", {})
        lines |= _enum_facts(f"{message}.", own_enums)
        for field in content["fields"]:
            kind = _type_fact(field["type"], message, own_enums, facts)
            label = "repeated " if field.get("repeated") else ""
            options = [f"{name}=True" for name in ("deprecated", "debug_redact") if field.get(name)]
            lines[f"{message}.{field['name']}"] = f"{label}{kind} = {field['number']} {options}"
    return lines


def _enum_facts(prefix: str, enums: dict[str, dict[str, int]]) -> dict[str, str]:
    lines = {f"{prefix}{enum}": "enum" for enum in enums}
    return lines | {
        f"{prefix}{enum}.{name}": f"value {number}"
        for enum, values in enums.items()
        for name, number in values.items()
    }


def _type_fact(name: str, message: str, own_enums: dict[str, Any], facts: dict[str, Any]) -> str:
    if name in own_enums:
        return f"enum {PACKAGE}.{message}.{name}"
    if name in facts["enums"]:
        return f"enum {PACKAGE}.{name}"
    if name in facts["messages"]:
        return f"message {PACKAGE}.{name}"
    return name


def flattened_descriptor(file: FileDescriptorProto) -> dict[str, str]:
    """What the generated code says."""
    lines = {"package": file.package, "syntax": file.syntax}
    if file.extension or file.dependency:
        lines["extras"] = f"{len(file.extension)} extensions, imports {list(file.dependency)}"
    for service in file.service:
        lines[service.name] = "service"
        for method in service.method:
            request = ("stream " if method.client_streaming else "") + method.input_type
            reply = ("stream " if method.server_streaming else "") + method.output_type
            lines[f"{service.name}.{method.name}()"] = f"{request} -> {reply}"
    lines |= _enum_lines("", file)
    for message in file.message_type:
        lines |= _message_lines("", message)
    return lines


def _enum_lines(prefix: str, holder: FileDescriptorProto | DescriptorProto) -> dict[str, str]:
    lines = {}
    for enum in holder.enum_type:
        lines[f"{prefix}{enum.name}"] = "enum" + _extras(enum, {"name", "value"})
        for value in enum.value:
            lines[f"{prefix}{enum.name}.{value.name}"] = f"value {value.number}" + _extras(
                value, {"name", "number"}
            )
    return lines


def _message_lines(prefix: str, message: DescriptorProto) -> dict[str, str]:
    path = f"{prefix}{message.name}"
    lines = {path: "message" + _extras(message, {"name", "field", "nested_type", "enum_type"})}
    lines |= _enum_lines(f"{path}.", message)
    maps = {f"{PACKAGE}.{path}.{n.name}": n for n in message.nested_type if n.options.map_entry}
    for nested in message.nested_type:
        if not nested.options.map_entry:
            lines |= _message_lines(f"{path}.", nested)
    for field in message.field:
        entry = maps.get(field.type_name)
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED and entry is None
        kind = _type(field) if entry is None else f"map<{_type(entry.field[0])},{_type(entry.field[1])}>"
        options = [f"{option.name}={value}" for option, value in field.options.ListFields()]
        extras = _extras(field, {"name", "number", "label", "type", "type_name", "json_name", "options"})
        label = "repeated " if repeated else ""
        lines[f"{path}.{field.name}"] = f"{label}{kind} = {field.number} {options}{extras}"
    return lines


def _type(field: FieldDescriptorProto) -> str:
    name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"{name} {field.type_name}" if field.type_name else name


def _extras(descriptor: Any, known: set[str]) -> str:
    """Anything set that the interface has nowhere: oneofs, reserved ranges, optional, defaults, options."""
    more = [field.name for field, _ in descriptor.ListFields() if field.name not in known]
    return f" with {more}" if more else ""


def generated() -> FileDescriptorProto:
    file = FileDescriptorProto()
    api_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def test_the_stubs_looked_at_are_those_of_this_tree() -> None:
    # another installation of crib on the path would be compared instead, and pass
    assert Path(api_pb2.__file__ or "").is_relative_to(ROOT / "src" / "crib" / "stubs")


def test_generated_code_is_the_interface_and_nothing_else() -> None:
    ours, theirs = flattened_descriptor(generated()), flattened_facts(FACTS)
    differences = [
        f"{path}: ours {ours.get(path, 'is missing')!r}, the interface {theirs.get(path, 'has none')!r}"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    ]
    assert not differences, "\n".join(differences)


def test_the_facts_are_all_read() -> None:
    known = {"name", "number", "type", "repeated", "deprecated", "debug_redact"}
    messages = FACTS["messages"].values()
    assert set(FACTS) == {"package", "syntax", "services", "enums", "messages"}
    assert {key for message in messages for key in message} == {"fields", "enums"}
    assert {key for message in messages for field in message["fields"] for key in field} == known
    assert {key for calls in FACTS["services"].values() for call in calls for key in call} == {
        "rpc",
        "request",
        "response",
        "response_stream",
    }


def _message(file: FileDescriptorProto, name: str) -> DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def _set(target: Any, name: str, value: Any) -> None:
    setattr(target, name, value)


CHANGES: dict[str, Callable[[FileDescriptorProto], Any]] = {
    "field number": lambda f: _set(_message(f, "Mount").field[2], "number", 12),
    "field name": lambda f: _set(_message(f, "Mount").field[2], "name", "read_only"),
    "field type": lambda f: _set(_message(f, "Mount").field[2], "type", FieldDescriptorProto.TYPE_INT32),
    "message type": lambda f: _set(_message(f, "Mount").field[8], "type_name", ".runtime.v1.Image"),
    "label": lambda f: _set(_message(f, "Mount").field[2], "label", FieldDescriptorProto.LABEL_REPEATED),
    "map value": lambda f: _set(
        _message(f, "PodSandboxConfig").nested_type[0].field[1], "type", FieldDescriptorProto.TYPE_BYTES
    ),
    "presence": lambda f: _set(_message(f, "Mount").field[2], "proto3_optional", True),
    "redaction": lambda f: _message(f, "AuthConfig").field[1].ClearField("options"),
    "deprecation": lambda f: _set(_message(f, "Mount").field[2].options, "deprecated", True),
    "missing field": lambda f: _message(f, "Mount").field.pop(),
    "extra field": lambda f: _message(f, "Mount").field.add(name="more", number=99, type=9, label=1),
    "missing message": lambda f: f.message_type.pop(),
    "extra message": lambda f: f.message_type.add(name="More"),
    "enum value": lambda f: _set(f.enum_type[0].value[1], "number", 7),
    "nested enum value": lambda f: _message(f, "SecurityProfile").enum_type[0].value.pop(),
    "missing call": lambda f: f.service[0].method.pop(),
    "streaming": lambda f: _set(f.service[0].method[0], "server_streaming", True),
    "request": lambda f: _set(f.service[0].method[0], "input_type", ".runtime.v1.StatusRequest"),
    "package": lambda f: _set(f, "package", "runtime.v2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_change_is_seen(change: str) -> None:
    file = generated()
    CHANGES[change](file)
    assert flattened_descriptor(file) != flattened_descriptor(generated())


class RecordingChannel:
    """Stands in for a channel and notes which calls a client would make."""

    def __init__(self) -> None:
        self.calls: dict[str, str] = {}

    def unary_unary(self, path: str, **_: Any) -> None:
        self.calls[path] = "unary"

    def unary_stream(self, path: str, **_: Any) -> None:
        self.calls[path] = "stream"


def test_clients_call_the_paths_that_a_kubelet_calls() -> None:
    channel: Any = RecordingChannel()
    api_pb2_grpc.RuntimeServiceStub(channel)
    api_pb2_grpc.ImageServiceStub(channel)
    assert channel.calls == {
        f"/runtime.v1.{service}/{call['rpc']}": "stream" if call.get("response_stream") else "unary"
        for service, calls in FACTS["services"].items()
        for call in calls
    }


def test_the_node_service_stands_beside_cri_under_its_own_package() -> None:
    channel: Any = RecordingChannel()
    node_pb2_grpc.NodeStub(channel)
    assert node_pb2.DESCRIPTOR.package == "crib.v1"
    assert channel.calls == {
        "/crib.v1.Node/Info": "unary",
        "/crib.v1.Node/ImportImage": "stream",
        "/crib.v1.Node/PullImageProgress": "stream",
        "/crib.v1.Node/ExplainRegistry": "unary",
        "/crib.v1.Node/CheckImages": "stream",
        "/crib.v1.Node/ExportImages": "unary",
        "/crib.v1.Node/Timeline": "unary",
        "/crib.v1.Node/ListTimelines": "stream",
        "/crib.v1.Node/Events": "stream",
        "/crib.v1.Node/ExplainContainer": "unary",
        "/crib.v1.Node/ListNetworks": "unary",
        "/crib.v1.Node/InspectPodNetwork": "unary",
        "/crib.v1.Node/CheckNetworks": "stream",
        "/crib.v1.Node/CollectNetworkGarbage": "unary",
        "/crib.v1.Node/RemoveNetwork": "unary",
        "/crib.v1.Node/ExecAs": "unary",
        "/crib.v1.Node/ExecDetached": "unary",
        "/crib.v1.Node/ForgetKeptPod": "unary",
        "/crib.v1.Node/Forward": "unary",
        "/crib.v1.Node/KeepPod": "unary",
        "/crib.v1.Node/ListKeptPods": "unary",
        "/crib.v1.Node/ListPlugins": "unary",
        "/crib.v1.Node/WantKeptPod": "unary",
        "/crib.v1.Node/ListWork": "unary",
        "/crib.v1.Node/Abandon": "unary",
        "/crib.v1.Node/CheckNode": "stream",
        "/crib.v1.Node/Wipe": "stream",
        "/crib.v1.Node/DiskUsage": "unary",
        "/crib.v1.Node/SetLogLevel": "unary",
        "/crib.v1.Node/InspectDaemon": "unary",
        "/crib.v1.Node/ExplainEnd": "unary",
        "/crib.v1.Node/ShowConfig": "unary",
        "/crib.v1.Node/ReloadConfig": "unary",
        "/crib.v1.Node/CreateVolume": "unary",
        "/crib.v1.Node/RemoveVolume": "unary",
        "/crib.v1.Node/InspectVolume": "unary",
        "/crib.v1.Node/PublishVolumes": "unary",
        "/crib.v1.Node/UnpublishVolumes": "unary",
        "/crib.v1.Node/ResizeVolume": "unary",
        "/crib.v1.Node/GetVolumeUsage": "unary",
        "/crib.v1.Node/SnapshotVolume": "unary",
        "/crib.v1.Node/RemoveVolumeSnapshot": "unary",
        "/crib.v1.Node/ExportVolume": "unary",
        "/crib.v1.Node/ImportVolume": "unary",
        "/crib.v1.Node/ListVolumes": "stream",
        "/crib.v1.Node/ListVolumeSnapshots": "stream",
        "/crib.v1.Node/PruneVolumes": "stream",
        "/crib.v1.Node/CheckVolumes": "stream",
        "/crib.v1.Node/ListVolumeDrivers": "unary",
    }


def test_stubs_are_what_the_protos_generate() -> None:
    pytest.importorskip("grpc_tools", reason="the generators are development dependencies")
    done = subprocess.run(
        [sys.executable, str(ROOT / "script" / "stubs"), "--check"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_stubs_are_imported_without_the_generators() -> None:
    program = (
        "import sys; sys.modules['grpc_tools'] = None; sys.path.insert(0, sys.argv[1]);"
        "from crib.stubs.runtime.v1 import api_pb2, api_pb2_grpc;"
        "from crib.stubs.node.v1 import node_pb2, node_pb2_grpc"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "src")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
