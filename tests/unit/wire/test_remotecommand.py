from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.remotecommand import (
    CHANNELS,
    MAX_RESIZE,
    MAX_STATUS,
    MAX_TEXT,
    SPDY_PROTOCOLS,
    Exited,
    Failed,
    MalformedRequest,
    Outcome,
    ResizeDecoder,
    SizeMessage,
    StreamType,
    Wanted,
    choose_spdy,
    decode_outcome,
    encode_outcome,
    encode_resize,
    stream_headers,
    stream_type,
)


def test_the_client_s_order_chooses_the_version() -> None:
    chosen = choose_spdy(["v5.channel.k8s.io,v3.channel.k8s.io", "v4.channel.k8s.io"])
    assert chosen is not None
    assert (chosen.name, chosen.has_resize, chosen.has_status) == ("v3.channel.k8s.io", True, False)
    assert choose_spdy(["v4.channel.k8s.io"]) is SPDY_PROTOCOLS[0]
    assert choose_spdy([]) is None
    assert choose_spdy(["v5.channel.k8s.io"]) is None


def test_streams_are_named_by_their_header() -> None:
    for kind in StreamType:
        assert stream_type(stream_headers(kind)) is kind
    assert stream_type((("streamtype", "stdin"),)) is StreamType.STDIN
    for headers in ((), (("streamtype", "STDIN"),), (("streamtype", "x" * 10_000),)):
        with pytest.raises(MalformedRequest) as caught:
            stream_type(headers)
        assert len(str(caught.value)) < 200


def test_channels_have_their_numbers() -> None:
    assert {kind: number for number, kind in enumerate(CHANNELS)} == {
        StreamType.STDIN: 0,
        StreamType.STDOUT: 1,
        StreamType.STDERR: 2,
        StreamType.ERROR: 3,
        StreamType.RESIZE: 4,
    }


def test_streams_that_are_waited_for() -> None:
    all_four = Wanted(stdin=True, stdout=True, stderr=True)
    assert all_four.streams(resize=True) == {"error", "stdin", "stdout", "stderr"}
    terminal = Wanted(stdin=True, stdout=True, stderr=True, tty=True)
    assert terminal.streams(resize=True) == {"error", "stdin", "stdout", "resize"}
    assert terminal.streams(resize=False) == {"error", "stdin", "stdout"}


def test_a_websocket_is_greeted_on_its_lowest_output() -> None:
    assert Wanted(stdin=True, stdout=True, stderr=True).greeting_channel() == 1
    assert Wanted(stderr=True).greeting_channel() == 2
    assert Wanted(stdin=True).greeting_channel() == 3


@given(
    st.one_of(st.integers(0, 255).map(Exited), st.text(min_size=1, max_size=50).map(Failed)),
)
def test_outcomes_come_back_as_they_were(outcome: Outcome) -> None:
    assert decode_outcome(encode_outcome(outcome, has_status=True), has_status=True) == outcome


def test_outcomes_are_as_clients_have_them() -> None:
    assert json.loads(encode_outcome(Exited(0), has_status=True)) == {"status": "Success"}
    assert json.loads(encode_outcome(Exited(7), has_status=True)) == {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": "the command ended with exit code 7",
        "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
    }
    assert json.loads(encode_outcome(Failed("no such file"), has_status=True)) == {
        "status": "Failure",
        "reason": "InternalError",
        "message": "no such file",
        "details": {"causes": [{"message": "no such file"}]},
        "code": 500,
    }
    assert len(encode_outcome(Failed("x" * 100_000), has_status=True)) < 2 * MAX_TEXT + 200


@pytest.mark.parametrize("character", ["x", "\0", "\U0001f600"])
def test_words_that_are_cut_are_still_taken_by_our_own_client(character: str) -> None:
    encoded = encode_outcome(Failed(character * 100_000), has_status=True)
    assert decode_outcome(encoded, has_status=True) == Failed(character * MAX_TEXT)


def test_old_versions_have_words() -> None:
    assert encode_outcome(Exited(0), has_status=False) == b""
    assert encode_outcome(Exited(3), has_status=False) == b"the command ended with exit code 3"
    assert encode_outcome(Failed("né\udc80"), has_status=False) == "né?".encode()
    assert decode_outcome(b"", has_status=False) == Exited(0)
    assert decode_outcome(b"went wrong", has_status=False) == Failed("went wrong")


def test_what_other_servers_write_is_read() -> None:
    full = b'{"metadata":{},"status":"Success"}'
    assert decode_outcome(full, has_status=True) == Exited(0)
    causes = b'{"reason":"Other","message":"x"},{"reason":"ExitCode","message":"9"}'
    failure = b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[%s]}}' % causes
    assert decode_outcome(failure, has_status=True) == Exited(9)


@pytest.mark.parametrize(
    "data",
    [
        b"words",
        b"[" * 10_000,
        b"\xff",
        b"{}",
        b'{"status":"Failure","reason":"NonZeroExitCode"}',
        b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode"}]}}',
        *(
            b'{"status":"Failure","reason":"NonZeroExitCode",'
            b'"details":{"causes":[{"reason":"ExitCode","message":"%s"}]}}' % code
            for code in (b"256", b"-1", b"x", b"0x1", b"9" * 5000, "²".encode())
        ),
        b'{"status":"Success"}' + b" " * MAX_STATUS + b"x",
    ],
)
def test_outcomes_that_cannot_be_read_are_failures(data: bytes) -> None:
    outcome = decode_outcome(data, has_status=True)
    assert isinstance(outcome, Failed)
    assert 0 < len(outcome.message) < 1000


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), max_size=5), st.integers(1, 30))
def test_sizes_come_back_wherever_they_are_cut(sizes: list[tuple[int, int]], cut: int) -> None:
    data = b"".join(encode_resize(SizeMessage(*size)) for size in sizes)
    decoder = ResizeDecoder()
    got = [size for at in range(0, len(data), cut) for size in decoder.receive(data[at : at + cut])]
    assert [(size.width, size.height) for size in got] == sizes


def test_sizes_are_as_clients_have_them() -> None:
    assert encode_resize(SizeMessage(80, 24)) == b'{"Width":80,"Height":24}\n'
    assert ResizeDecoder().receive(b'{"width": 5}{"HEIGHT":6,"more":"x"} ') == [
        SizeMessage(5, 0),
        SizeMessage(0, 6),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"}",
        b'{"Width":-1}',
        b'{"Width":65536}',
        b'{"Width":"80"}',
        b'{"Width":true}',
        b'{"Width":1.5}',
        b'{"Width":{}}',
        b"{" * (MAX_RESIZE + 1),
        b" " * (MAX_RESIZE + 1) + b"}",
    ],
)
def test_what_is_no_size_is_left_out_and_the_next_one_is_taken(data: bytes) -> None:
    decoder = ResizeDecoder()
    assert decoder.receive(data) == []
    assert decoder.receive(b'}{"Width":1}{"Width":80}')[-1:] == [SizeMessage(80, 0)]


def test_of_many_sizes_at_once_the_newest_two_count() -> None:
    data = b"".join(encode_resize(SizeMessage(number, 1)) for number in range(1000))
    assert ResizeDecoder().receive(data) == [SizeMessage(998, 1), SizeMessage(999, 1)]


def test_a_size_that_never_ends_is_not_held() -> None:
    decoder = ResizeDecoder()
    for _ in range(MAX_RESIZE):
        assert decoder.receive(b"1") == []
    assert len(decoder._held) == MAX_RESIZE
    assert decoder.receive(b"1") == []
    assert decoder._held == b""
    assert decoder.receive(b'}{"Width":80}') == [SizeMessage(80, 0)]
