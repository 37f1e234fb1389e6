"""ttrpc without a connection: both ends wired together and cut anywhere, limits, and what is no ttrpc."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from crib.wire import ttrpc
from crib.wire.rpc_codes import Code
from crib.wire.ttrpc import NO_DATA, REMOTE_CLOSED, Kind, Request, Response
from crib.wire.ttrpc_calls import (
    Answered,
    Called,
    ClientCalls,
    Ended,
    Received,
    Refused,
    ServerCalls,
    Shape,
    StreamOver,
)

TEXTS = st.text(max_size=30)
REQUESTS = st.builds(
    Request,
    TEXTS,
    TEXTS,
    st.binary(max_size=300),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=4).map(tuple),
)
RESPONSES = st.builds(Response, st.integers(0, (1 << 31) - 1), TEXTS, st.binary(max_size=300))


def events(calls: ClientCalls | ServerCalls) -> list[object]:
    found = list[object]()
    while (event := calls.next_event()) is not None:
        found.append(event)
    return found


def fed(calls: ClientCalls | ServerCalls, data: bytes) -> list[object]:
    calls.feed(data)
    return events(calls)


def answer_of(reply: bytes) -> Response:
    return ttrpc.decode_response(reply[ttrpc.HEADER_BYTES :])


# what requests and responses hold


def protobuf_types() -> tuple[Any, Any]:
    """The same messages, by protobuf's own library."""
    file = descriptor_pb2.FileDescriptorProto(name="ttrpc_test.proto", package="ttrpc_test", syntax="proto3")
    kinds = {"string": 9, "bytes": 12, "int64": 3, "int32": 5}

    def message(name: str, *fields: tuple[str, int, str, bool]) -> None:
        made = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            one = made.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in kinds:
                one.type = kinds[kind]  # type: ignore[assignment]  # the enum's numbers
            else:
                one.type, one.type_name = 11, f".ttrpc_test.{kind}"  # type: ignore[assignment]  # as above

    message("KeyValue", ("key", 1, "string", False), ("value", 2, "string", False))
    message(
        "Request",
        ("service", 1, "string", False),
        ("method", 2, "string", False),
        ("payload", 3, "bytes", False),
        ("timeout_nano", 4, "int64", False),
        ("metadata", 5, "KeyValue", True),
    )
    message("Status", ("code", 1, "int32", False), ("message", 2, "string", False))
    message("Response", ("status", 1, "Status", False), ("payload", 2, "bytes", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessages([file], pool=pool)
    return found["ttrpc_test.Request"], found["ttrpc_test.Response"]


PROTO_REQUEST, PROTO_RESPONSE = protobuf_types()


@given(REQUESTS)
def test_a_request_is_the_message_that_protobuf_makes_of_it(request: Request) -> None:
    theirs = PROTO_REQUEST.FromString(ttrpc.encode_request(request))
    assert (theirs.service, theirs.method, theirs.payload) == (
        *(request.service, request.method),
        request.payload,
    )
    assert theirs.timeout_nano == request.timeout_nano
    assert tuple((one.key, one.value) for one in theirs.metadata) == request.metadata
    assert ttrpc.decode_request(theirs.SerializeToString()) == request


@given(RESPONSES)
def test_a_response_is_the_message_that_protobuf_makes_of_it(response: Response) -> None:
    theirs = PROTO_RESPONSE.FromString(ttrpc.encode_response(response))
    assert (theirs.status.code, theirs.status.message, theirs.payload) == (
        *(response.code, response.message),
        response.payload,
    )
    assert ttrpc.decode_response(theirs.SerializeToString()) == response


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for decode in (ttrpc.decode_request, ttrpc.decode_response):
        try:
            decode(data)
        except ttrpc.Malformed:
            continue


def test_fields_of_later_versions_are_passed_over() -> None:
    unknown = b"\x30\x05" + b"\x3a\x02hi" + b"\x41" + bytes(8) + b"\x4d" + bytes(4)
    assert ttrpc.decode_request(ttrpc.encode_request(Request("s", "m")) + unknown) == Request("s", "m")


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x05abc",
        b"\x0a",
        b"\x08\xff\xff",
        b"\x20" + b"\xff" * 11,
        b"\x0b",
        b"\x02\x00",
        b"\x0a\x01\xff",
        b"\x09\x00",
        b"\x2a\x00" * (ttrpc.MAX_METADATA + 1),
    ],
)
def test_a_request_that_cannot_be_is_malformed(data: bytes) -> None:
    with pytest.raises(ttrpc.Malformed):
        ttrpc.decode_request(data)


# frames


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40))),
    st.integers(1, 60),
)
def test_frames_cut_anywhere_are_the_same_frames(
    frames: list[tuple[int, int, int, bytes]], size: int
) -> None:
    wire = b"".join(ttrpc.frame(stream, kind, flags, data) for stream, kind, flags, data in frames)  # type: ignore[arg-type]  # any kind
    reader, found = ttrpc.FrameReader(), []
    for at in range(0, len(wire), size):
        reader.feed(wire[at : at + size])
        while (one := reader.next()) is not None:
            found.append(one)
    assert found == [ttrpc.Frame(*one) for one in frames]
    assert reader.held == 0


@pytest.mark.parametrize("size", [1 << 10, 1 << 30])
def test_a_frame_over_the_limit_is_skipped_and_the_next_one_is_read(size: int) -> None:
    length = ttrpc.MAX_DATA_BYTES + 1
    wire = (
        length.to_bytes(4, "big") + b"\0\0\0\x01\x03\0" + bytes(length) + ttrpc.frame(3, Kind.DATA, 0, b"x")
    )
    reader, found, held = ttrpc.FrameReader(), [], 0
    for at in range(0, len(wire), size):
        reader.feed(wire[at : at + size])
        while (one := reader.next()) is not None:
            found.append(one)
        held = max(held, reader.held)
    assert found == [ttrpc.Skipped(1, 3, length), ttrpc.Frame(3, 3, 0, b"x")]
    assert held <= 1 << 10, "what is skipped is not kept"


def test_the_largest_frame_is_taken_and_one_byte_more_is_not_sent() -> None:
    largest = bytes(ttrpc.MAX_DATA_BYTES)
    reader = ttrpc.FrameReader()
    reader.feed(ttrpc.frame(1, Kind.DATA, 0, largest))
    assert reader.next() == ttrpc.Frame(1, Kind.DATA, 0, largest)
    with pytest.raises(ttrpc.Oversized, match="4194305 bytes"):
        ttrpc.frame(1, Kind.DATA, 0, largest + b"x")


def test_a_length_that_no_frame_has_ends_the_connection() -> None:
    reader = ttrpc.FrameReader()
    reader.feed(b"\x01\0\0\0" + bytes(6))
    with pytest.raises(ttrpc.Malformed, match="16777216 bytes"):
        reader.next()


# both ends

MESSAGES = st.lists(st.binary(max_size=20), max_size=4)


@given(
    st.lists(st.tuples(REQUESTS, st.sampled_from(Shape), MESSAGES, MESSAGES, RESPONSES), max_size=5),
    st.integers(1, 50),
)
def test_calls_of_every_shape_arrive_however_their_bytes_are_cut(
    calls: list[tuple[Request, Shape, list[bytes], list[bytes], Response]], size: int
) -> None:
    client, server = ClientCalls(), ServerCalls()
    up = b""
    for request, shape, sent, _, _ in calls:
        stream, data = client.open(request, shape)
        up += data
        if shape is Shape.UP:
            up += b"".join(client.data(stream, one) for one in sent) + client.end(stream)
    at_server = [event for at in range(0, len(up), size) for event in fed(server, up[at : at + size])]
    down, expected, answers = b"", list[object](), list[object]()
    for number, (request, shape, sent, back, response) in enumerate(calls):
        stream = 2 * number + 1
        expected.append(Called(stream, request, shape))
        if shape is Shape.UP:
            expected += [*(Received(stream, one) for one in sent), Ended(stream)]
        if shape is Shape.UNARY:
            down += server.respond(stream, response)
            answers.append(Answered(stream, response))
        else:
            down += b"".join(server.data(stream, one) for one in back) + server.end(stream)
            answers += [*(Received(stream, one) for one in back), Ended(stream)]
    assert at_server == expected
    assert [
        event for at in range(0, len(down), size) for event in fed(client, down[at : at + size])
    ] == answers


def test_a_message_with_its_senders_end_is_both() -> None:
    client, server = ClientCalls(), ServerCalls()
    stream, data = client.open(Request("s", "m"), Shape.UP)
    last = ttrpc.frame(stream, Kind.DATA, REMOTE_CLOSED, b"last")
    assert fed(server, data + last)[1:] == [Received(stream, b"last"), Ended(stream)]
    assert fed(client, last) == [Received(stream, b"last"), Ended(stream)]


def test_an_empty_message_is_none_only_if_the_frame_says_so() -> None:
    client = ClientCalls()
    stream, _ = client.open(Request("s", "m"), Shape.DOWN)
    assert fed(client, ttrpc.frame(stream, Kind.DATA, 0)) == [Received(stream, b"")]
    assert fed(client, ttrpc.frame(stream, Kind.DATA, NO_DATA)) == []


def test_answers_come_in_any_order() -> None:
    client, server = ClientCalls(), ServerCalls()
    streams = [client.open(Request("s", str(number))) for number in range(3)]
    fed(server, b"".join(data for _, data in streams))
    order = (5, 1, 3)
    down = b"".join(server.respond(stream, Response(payload=str(stream).encode())) for stream in order)
    assert fed(client, down) == [Answered(one, Response(payload=str(one).encode())) for one in order]


def test_a_late_answer_to_a_forgotten_call_is_dropped() -> None:
    client, server = ClientCalls(), ServerCalls()
    stream, data = client.open(Request("s", "m"))
    client.forget(stream)
    fed(server, data)
    assert fed(client, server.respond(stream, Response())) == []


def test_data_sent_before_the_client_knew_of_the_answer_is_dropped() -> None:
    client, server = ClientCalls(), ServerCalls()
    stream, data = client.open(Request("s", "m"), Shape.UP)
    fed(server, data)
    server.respond(stream, Response(Code.INTERNAL, "no"))
    assert fed(server, client.data(stream, b"late")) == []


@pytest.mark.parametrize("stream", [2, 3])
def test_an_answer_to_a_call_that_never_was_ends_the_connection(stream: int) -> None:
    client = ClientCalls()
    client.open(Request("s", "m"))
    client.feed(ttrpc.frame(stream, Kind.RESPONSE, 0, b""))
    with pytest.raises(ttrpc.Malformed, match=f"stream {stream}"):
        client.next_event()


@pytest.mark.parametrize(
    ("flags", "data", "message"),
    [
        (0, b"x", "data where one response is due"),
        (REMOTE_CLOSED, b"x", "data where one response is due"),
    ],
)
def test_data_in_place_of_a_response_fails_the_call_alone(flags: int, data: bytes, message: str) -> None:
    client = ClientCalls()
    stream, _ = client.open(Request("s", "m"))
    other, _ = client.open(Request("s", "m"))
    (event,) = fed(client, ttrpc.frame(stream, Kind.DATA, flags, data))
    assert isinstance(event, Answered)
    assert event.response.code == Code.INTERNAL
    assert message in event.response.message
    assert fed(client, ttrpc.frame(other, Kind.RESPONSE, 0, b"")) == [Answered(other, Response())]


def test_an_answer_that_cannot_be_read_fails_the_call_alone() -> None:
    client = ClientCalls()
    stream, _ = client.open(Request("s", "m"))
    (event,) = fed(client, ttrpc.frame(stream, Kind.RESPONSE, 0, b"\x0a\x05"))
    assert isinstance(event, Answered)
    assert (event.response.code, event.stream) == (Code.INTERNAL, stream)


def test_an_answer_over_the_limit_fails_the_call_alone() -> None:
    client = ClientCalls()
    stream, _ = client.open(Request("s", "m"))
    header = (ttrpc.MAX_DATA_BYTES + 1).to_bytes(4, "big") + stream.to_bytes(4, "big") + b"\x02\0"
    (event,) = fed(client, header)
    assert isinstance(event, Answered)
    assert event.response.code == Code.RESOURCE_EXHAUSTED


REQUEST = ttrpc.encode_request(Request("s", "m"))
TOO_LONG = (
    (ttrpc.MAX_DATA_BYTES + 1).to_bytes(4, "big") + b"\0\0\0\x01\x01\0" + bytes(ttrpc.MAX_DATA_BYTES + 1)
)


@pytest.mark.parametrize(
    ("before", "frame", "message"),
    [
        (b"", ttrpc.frame(2, Kind.REQUEST, 0, REQUEST), "odd numbers"),
        (b"", ttrpc.frame(1, Kind.REQUEST, 0, b"\x0a\x05"), "cannot be read"),
        (b"", ttrpc.frame(1, Kind.DATA, 0, b"x"), "before the request"),
        (ttrpc.frame(3, Kind.REQUEST, 0, REQUEST), ttrpc.frame(3, Kind.REQUEST, 0, REQUEST), "only grow"),
        (ttrpc.frame(3, Kind.REQUEST, 0, REQUEST), ttrpc.frame(1, Kind.REQUEST, 0, REQUEST), "only grow"),
        (ttrpc.frame(1, Kind.REQUEST, 0, REQUEST), ttrpc.frame(1, Kind.DATA, 0, b"x"), "after the end"),
        (
            ttrpc.frame(1, Kind.REQUEST, REMOTE_CLOSED, REQUEST),
            ttrpc.frame(1, Kind.DATA, 0, b""),
            "after the end",
        ),
        (b"", TOO_LONG, "at most 4194304"),
    ],
    ids=["even", "unreadable", "no request", "twice", "smaller", "unary", "closed", "too long"],
)
def test_what_cannot_be_is_refused_on_its_stream(before: bytes, frame: bytes, message: str) -> None:
    server = ServerCalls()
    fed(server, before)
    (event,) = fed(server, frame)
    assert isinstance(event, Refused)
    assert event.reply[4:8] == frame[4:8]
    assert message in answer_of(event.reply).message
    assert fed(server, ttrpc.frame(9, Kind.REQUEST, 0, REQUEST)) == [
        Called(9, Request("s", "m"), Shape.UNARY)
    ]


def test_frames_of_unknown_types_are_passed_over() -> None:
    server, client = ServerCalls(), ClientCalls()
    stream, data = client.open(Request("s", "m"))
    unknown = b"\0\0\0\x01" + stream.to_bytes(4, "big") + b"\x09\0x"
    assert fed(server, data + unknown) == [Called(stream, Request("s", "m"), Shape.UNARY)]
    assert fed(client, unknown) == []


def test_nothing_is_sent_on_a_stream_that_is_over() -> None:
    client, server = ClientCalls(), ServerCalls()
    unary, data = client.open(Request("s", "m"))
    up, more = client.open(Request("s", "m"), Shape.UP)
    fed(server, data + more)
    with pytest.raises(StreamOver):
        client.data(unary, b"x")
    with pytest.raises(StreamOver):
        server.data(unary, b"x")
    client.end(up)
    with pytest.raises(StreamOver):
        client.data(up, b"x")
    server.respond(unary, Response())
    with pytest.raises(StreamOver):
        server.respond(unary, Response())
    with pytest.raises(StreamOver):
        client.end(99)


def test_a_message_that_is_too_long_opens_and_ends_nothing() -> None:
    client, server = ClientCalls(), ServerCalls()
    with pytest.raises(ttrpc.Oversized):
        client.open(Request("s", "m", bytes(ttrpc.MAX_DATA_BYTES)))
    stream, data = client.open(Request("s", "m"))
    assert stream == 1
    fed(server, data)
    with pytest.raises(ttrpc.Oversized):
        server.respond(stream, Response(payload=bytes(ttrpc.MAX_DATA_BYTES)))
    assert fed(client, server.respond(stream, Response())) == [Answered(stream, Response())]


def test_a_connection_has_an_end_of_streams() -> None:
    client = ClientCalls()
    client._next = ttrpc.MAX_STREAM
    client.open(Request("s", "m"))
    with pytest.raises(StreamOver, match="no more streams"):
        client.open(Request("s", "m"))
