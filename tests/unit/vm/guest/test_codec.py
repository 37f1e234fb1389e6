"""The guest's own codec of protobuf says what the generated one says, and refuses what is no message."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from crib.stubs.shim import metrics_v2_pb2, task_pb2
from crib.stubs.vm import guest_pb2
from crib.vm.guest import cgroups, codec, messages

_KINDS = {
    FieldDescriptor.TYPE_STRING: codec.STRING,
    FieldDescriptor.TYPE_BYTES: codec.BYTES,
    FieldDescriptor.TYPE_BOOL: codec.BOOL,
    FieldDescriptor.TYPE_FIXED32: codec.FIXED32,
    FieldDescriptor.TYPE_DOUBLE: codec.DOUBLE,
    FieldDescriptor.TYPE_UINT32: codec.UINT,
    FieldDescriptor.TYPE_UINT64: codec.UINT,
    FieldDescriptor.TYPE_ENUM: codec.UINT,
    FieldDescriptor.TYPE_INT32: codec.UINT,  # the nanoseconds of a moment, which are never negative
    FieldDescriptor.TYPE_INT64: codec.INT,
}

TASK_SERVICE = task_pb2.DESCRIPTOR.services_by_name["Task"]
GUEST_SERVICE = guest_pb2.DESCRIPTOR.services_by_name["Guest"]
PAIRS: list[tuple[Any, Descriptor]] = [
    *(
        pair
        for service, tables in ((TASK_SERVICE, messages.TASK_CALLS), (GUEST_SERVICE, messages.GUEST_CALLS))
        for name, (question, answer) in tables.items()
        for pair in (
            (question, service.methods_by_name[name].input_type),
            (answer, service.methods_by_name[name].output_type),
        )
    ),
    (messages.GREETING, guest_pb2.Greeting.DESCRIPTOR),
    (cgroups.METRICS_TABLE, metrics_v2_pb2.Metrics.DESCRIPTOR),
]


def kind_of(field: FieldDescriptor, kind: Any) -> Any:
    """What a table has to say of a field."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return codec.MAP
    plain = _KINDS.get(field.type)
    if plain is None:
        within = kind[0] if isinstance(kind, tuple) else kind
        check(within, field.message_type)  # type: ignore[arg-type]  # as it comes
        plain = within
    return (plain,) if field.is_repeated else plain


def check(table: Any, descriptor: Descriptor) -> None:
    for number, (name, kind) in table.items():
        field = descriptor.fields_by_number[number]
        assert field.name == name, descriptor.full_name
        assert kind == kind_of(field, kind), field.full_name


@pytest.mark.parametrize(("table", "descriptor"), PAIRS, ids=[one.full_name for _, one in PAIRS])
def test_a_table_says_what_the_protocol_says(table: Any, descriptor: Descriptor) -> None:
    check(table, descriptor)


def test_the_tables_have_every_call() -> None:
    assert set(messages.GUEST_CALLS) == set(GUEST_SERVICE.methods_by_name)
    assert set(messages.TASK_CALLS) == set(TASK_SERVICE.methods_by_name) - {"Checkpoint"}
    assert TASK_SERVICE.full_name == messages.TASK
    assert GUEST_SERVICE.full_name == messages.GUEST


def test_messages_of_the_agent_have_all_fields_of_the_protocol() -> None:
    for name, (question, answer) in messages.GUEST_CALLS.items():
        method = GUEST_SERVICE.methods_by_name[name]
        assert set(question) == set(method.input_type.fields_by_number), name
        assert set(answer) == set(method.output_type.fields_by_number), name


def test_what_the_generated_code_writes_is_read() -> None:
    asked = guest_pb2.ConfigureRequest(
        hostname="höst",
        interfaces=[guest_pb2.Interface(name="eth0", mtu=1450, addresses=["10.0.0.5/24", "fd00::5/64"])],
        routes=[guest_pb2.Route(gateway="10.0.0.1", onlink=True, metric=1 << 31)],
        sysctls={"net.core.somaxconn": "77", "a": ""},
        now=-1,
        shm_bytes=(1 << 64) - 1,
    )
    read = codec.decode(messages.CONFIGURE, asked.SerializeToString())
    assert read["hostname"] == "höst"
    assert read["interfaces"][0]["addresses"] == ["10.0.0.5/24", "fd00::5/64"]
    assert read["routes"][0]["onlink"] is True
    assert read["sysctls"] == {"net.core.somaxconn": "77", "a": ""}
    assert (read["now"], read["shm_bytes"], read["shared_pid"]) == (-1, (1 << 64) - 1, False)


def test_what_the_agent_writes_is_read_by_the_generated_code() -> None:
    said = codec.encode(
        messages.GUEST_CALLS["Events"][1],
        {"events": [{"at": 5, "oom": {"container_id": "c", "kills": 300}}, {"at": -7}], "cursor": 1 << 63},
    )
    read = guest_pb2.EventsResponse.FromString(said)
    assert [(one.at, one.oom.container_id, one.oom.kills) for one in read.events] == [
        (5, "c", 300),
        (-7, "", 0),
    ]
    assert read.cursor == 1 << 63
    metrics = {"cpu": {"usage_usec": 7, "psi": {"some": {"avg10": 1.5, "total": 9}}}, "memory": {"usage": 3}}
    made = metrics_v2_pb2.Metrics.FromString(codec.encode(cgroups.METRICS_TABLE, metrics))
    assert (made.cpu.usage_usec, made.cpu.psi.some.avg10, made.memory.usage) == (7, 1.5, 3)


def test_a_greeting_has_always_the_same_length() -> None:
    for generation in (1, 127, 1 << 31):
        greeting = {"version": 1, "generation": generation, "nonce": bytes(16)}
        data = codec.encode(messages.GREETING, greeting)
        assert len(data) == 28
        assert guest_pb2.Greeting.FromString(data).generation == generation


@given(
    id=st.text(max_size=40),
    data=st.binary(max_size=300),
    connection=st.integers(0, (1 << 64) - 1),
)
def test_both_codecs_agree(id: str, data: bytes, connection: int) -> None:
    table = messages.GUEST_CALLS["Write"][0]
    fields = {"id": id, "data": data, "connection": connection}
    generated = guest_pb2.WriteRequest(**fields).SerializeToString()  # type: ignore[arg-type]  # as it comes
    assert codec.decode(table, generated) == {**fields, "exec_id": ""}
    assert guest_pb2.WriteRequest.FromString(codec.encode(table, fields)).SerializeToString() == generated


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for table in (messages.CONFIGURE, messages.CREATE, cgroups.METRICS_TABLE):
        try:
            read = codec.decode(table, data)
        except codec.Malformed:
            continue
        codec.encode(table, read)


def test_messages_in_messages_have_an_end() -> None:
    table: dict[int, Any] = {}
    table[1] = ("within", table)
    data = b""
    for _ in range(codec.MAX_DEPTH + 1):
        data = codec.encode({1: ("within", codec.BYTES)}, {"within": data or b"\x0a\x00"})
    with pytest.raises(codec.Malformed):
        codec.decode(table, data)


def test_a_name_that_no_table_has_is_an_error_of_ours() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        codec.encode(messages.INFO, {"kernel": "6.1", "nonsense": 1})
