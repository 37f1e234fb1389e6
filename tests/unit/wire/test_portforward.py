from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire import portforward
from crib.wire.portforward import (
    MAX_HALVES,
    MAX_PORTS,
    MAX_QUERY,
    PAIR_SECONDS,
    ForwardPair,
    ForwardStream,
    Pairing,
    StreamKind,
    Target,
    data_channel,
    decode_ports,
    decode_stream,
    decode_target,
    encode_port,
    error_channel,
    stream_headers,
)
from crib.wire.remotecommand import MalformedRequest
from crib.wire.spdy import Headers

DATA, ERROR = StreamKind.DATA, StreamKind.ERROR
WEB = Target("tcp", 80)


@given(st.sampled_from(StreamKind), st.integers(1, 65535), st.text("0123456789abc", min_size=1, max_size=64))
def test_streams_come_back_as_they_were(kind: StreamKind, port: int, request_id: str) -> None:
    stream = decode_stream(5, stream_headers(kind, port, request_id))
    assert stream == ForwardStream(5, kind, Target("tcp", port), request_id)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("80", WEB),
        ("udp:53", Target("udp", 53)),
        ("unix:box:/run/a b:c", Target("unix", container="box", path="/run/a b:c")),
        ("unix:box:/söckel/\udcff", Target("unix", container="box", path="/söckel/\udcff")),
    ],
)
def test_targets_come_back_through_text_and_headers(text: str, target: Target) -> None:
    assert decode_target(text) == target
    assert str(target) == text
    assert decode_stream(1, stream_headers(DATA, target, "1")).target == target


def test_a_target_may_say_that_it_is_tcp() -> None:
    assert decode_target("tcp:80") == WEB


@pytest.mark.parametrize(
    "text",
    [
        "udp:",
        "udp:0",
        "udp:65536",
        "sctp:1",
        "tcp:",
        "80\n",
        "unix:",
        "unix:/run/x",
        "unix::/run/x",
        "unix:a/b:/x",
        "unix:box:run/x",
        "unix:box:/x\0",
        "unix:box:/" + "x" * 5000,
    ],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        decode_target(text)


def test_streams_without_a_request_id_are_paired_by_their_numbers() -> None:
    headers: Headers = (("port", "80"),)
    error = decode_stream(1, (("streamtype", "error"), *headers))
    data = decode_stream(3, (("streamtype", "data"), *headers))
    assert error.request_id == data.request_id == "1"


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "80x", "+80", " 80", "²", "9" * 10_000])
def test_ports_are_checked(port: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        decode_stream(1, (("streamtype", "data"), ("port", port)))
    assert len(str(caught.value)) < 200
    with pytest.raises(MalformedRequest):
        decode_ports(f"port={port}")


@pytest.mark.parametrize(
    "headers",
    [
        (("port", "80"),),
        (("streamtype", "stdin"), ("port", "80")),
        (("streamtype", "data"),),
        (("streamtype", "data"), ("port", "80"), ("requestid", "x" * 65)),
    ],
)
def test_streams_need_a_type_a_port_and_a_short_request_id(headers: Headers) -> None:
    with pytest.raises(MalformedRequest):
        decode_stream(1, headers)


@pytest.mark.parametrize("order", [(DATA, ERROR), (ERROR, DATA)])
def test_the_second_stream_completes_a_pair_whose_id_is_free_again(order: tuple[StreamKind, ...]) -> None:
    pairing = Pairing()
    for round_id in (0, 10):
        first, second = (
            ForwardStream(round_id + number, kind, WEB, "1") for number, kind in enumerate(order)
        )
        assert pairing.add(first, 0) is None
        pair = pairing.add(second, 1)
        data, error = (first, second) if order[0] is DATA else (second, first)
        assert pair == ForwardPair(WEB, data.stream_id, error.stream_id)
        assert pairing.next_expiry() is None


def test_streams_that_do_not_fit_are_refused_and_the_first_waits_on() -> None:
    pairing = Pairing()
    pairing.add(ForwardStream(1, ERROR, WEB, "1"), 0)
    with pytest.raises(MalformedRequest, match="already"):
        pairing.add(ForwardStream(3, ERROR, WEB, "1"), 0)
    with pytest.raises(MalformedRequest, match="80 and 81"):
        pairing.add(ForwardStream(5, DATA, Target("tcp", 81), "1"), 0)
    assert pairing.add(ForwardStream(7, DATA, WEB, "1"), 0) == ForwardPair(WEB, 7, 1)


def test_streams_that_wait_too_long_expire() -> None:
    pairing = Pairing()
    early, late = ForwardStream(1, ERROR, WEB, "1"), ForwardStream(3, DATA, WEB, "2")
    pairing.add(early, 100)
    pairing.add(late, 105)
    assert pairing.next_expiry() == 100 + PAIR_SECONDS
    assert pairing.expire(99 + PAIR_SECONDS) == []
    assert pairing.expire(100 + PAIR_SECONDS) == [early]
    assert pairing.expire(200) == [late]
    assert pairing.next_expiry() is None


def test_waiting_streams_are_limited_and_leave_when_they_are_reset() -> None:
    pairing = Pairing()
    for number in range(MAX_HALVES):
        pairing.add(ForwardStream(number, DATA, WEB, str(number)), 0)
    more = ForwardStream(999, DATA, WEB, "more")
    with pytest.raises(MalformedRequest, match="wait"):
        pairing.add(more, 0)
    assert pairing.add(ForwardStream(998, ERROR, WEB, "0"), 0) == ForwardPair(WEB, 0, 998)
    assert pairing.add(more, 0) is None
    pairing.drop(1)
    pairing.drop(12345)
    pairing.add(ForwardStream(1001, DATA, WEB, "1"), 0)


def test_ports_of_a_websocket_come_from_its_query() -> None:
    assert decode_ports("port=80&port=443,8080&other=1") == (80, 443, 8080)
    many = ",".join(["1"] * MAX_PORTS)
    assert len(decode_ports(f"port={many}")) == MAX_PORTS
    for query in ("", "port=", f"port={many},1", "port=1&x=" + "y" * MAX_QUERY):
        with pytest.raises(MalformedRequest):
            decode_ports(query)


def test_each_port_has_two_channels_that_begin_with_it() -> None:
    assert [(data_channel(index), error_channel(index)) for index in range(3)] == [(0, 1), (2, 3), (4, 5)]
    assert error_channel(MAX_PORTS - 1) <= 79
    assert encode_port(8080) == b"\x90\x1f"


def test_the_names_are_the_protocol_s() -> None:
    assert f"SPDY/3.1+{portforward.PROTOCOL}" == portforward.TUNNEL_PROTOCOL
    assert [protocol.name for protocol in portforward.WEBSOCKET_PROTOCOLS] == [
        "",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
    ]
