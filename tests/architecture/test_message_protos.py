"""The protocols of shims, NRI and CSI are as these projects say: every message, field, number and call.

message_facts.txt has one fact a line, from the projects' own texts. Version 2 of the task service is not
listed: its calls and messages are those of version 3. Of CSI it has the calls that crib makes, and what
they lead to.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto
from google.protobuf.descriptor_pb2 import FileDescriptorProto as File

from crib.stubs.csi.v1 import csi_pb2
from crib.stubs.nri.v1alpha1 import api_pb2
from crib.stubs.shim import (
    bootstrap_pb2,
    events_pb2,
    events_service_pb2,
    metrics_v1_pb2,
    metrics_v2_pb2,
    runc_options_pb2,
    runtime_options_pb2,
    sandbox_pb2,
    task_pb2,
    task_types_pb2,
    types_pb2,
)

ROOT = Path(__file__).resolve().parents[2]
FACTS = Path(__file__).with_name("message_facts.txt").read_text().splitlines()
MODULES = (
    csi_pb2,
    *(api_pb2, bootstrap_pb2, events_pb2, events_service_pb2, metrics_v1_pb2, metrics_v2_pb2),
    *(runc_options_pb2, runtime_options_pb2, sandbox_pb2, task_pb2, task_types_pb2, types_pb2),
)


def generated() -> list[File]:
    files = [File() for _ in MODULES]
    for module, file in zip(MODULES, files, strict=True):
        module.DESCRIPTOR.CopyToProto(file)
    return files


def facts(file: File) -> Iterator[str]:
    package = f".{file.package}"
    for service in file.service:
        for call in service.method:
            streams = f"{call.client_streaming} {call.server_streaming}"
            yield f"{package}.{service.name}.{call.name}() {call.input_type} {call.output_type} {streams}"
    for message in file.message_type:
        yield from _of_message(package, message)
    for enum in file.enum_type:
        yield from _of_enum(package, enum)


def _of_message(above: str, message: DescriptorProto) -> Iterator[str]:
    path = f"{above}.{message.name}"
    yield path
    maps = {f"{path}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    for field in message.field:
        entry = maps.get(field.type_name)
        kind = _kind(field) if entry is None else f"map<{_kind(entry.field[0])},{_kind(entry.field[1])}>"
        many = field.label == FieldDescriptorProto.LABEL_REPEATED and entry is None
        labels = ("optional " if field.proto3_optional else "") + ("repeated " if many else "")
        yield f"{path}.{field.name} {field.number} {labels}{kind}"
    for nested in message.nested_type:
        if not nested.options.map_entry:
            yield from _of_message(path, nested)
    for enum in message.enum_type:
        yield from _of_enum(path, enum)


def _of_enum(above: str, enum: EnumDescriptorProto) -> Iterator[str]:
    for value in enum.value:
        yield f"{above}.{enum.name}.{value.name} {value.number}"


def _kind(field: FieldDescriptorProto) -> str:
    return field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def test_generated_code_is_the_protocols_and_nothing_else() -> None:
    ours = {fact for file in generated() for fact in facts(file)}
    assert sorted(ours ^ set(FACTS)) == [], "ours alone, or theirs alone"


def test_every_proto_of_these_rooms_is_looked_at() -> None:
    texts = {path for room in ("shim/*", "nri/*/*", "csi/*/*") for path in ROOT.glob(f"proto/{room}.proto")}
    assert {str(path.relative_to(ROOT / "proto")) for path in texts} == {file.name for file in generated()}


@pytest.mark.parametrize(
    "message", [task_pb2.CreateTaskRequest, api_pb2.LinuxResources, csi_pb2.NodeStageVolumeRequest]
)
def test_one_change_of_a_field_is_seen(message: type[task_pb2.CreateTaskRequest]) -> None:
    file = File()
    message.DESCRIPTOR.file.CopyToProto(file)
    changed = next(one for one in file.message_type if one.name == message.DESCRIPTOR.name)
    changed.field[2].number = 99
    assert len(set(facts(file)) - set(FACTS)) == 1


def test_the_messages_need_no_grpc() -> None:
    program = (
        "import sys; sys.modules['grpc'] = None; sys.path.insert(0, sys.argv[1]);"
        "from crib.stubs.csi.v1 import csi_pb2;"
        "from crib.stubs.nri.v1alpha1 import api_pb2;"
        "from crib.stubs.shim import events_service_pb2, task_pb2"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "src")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
