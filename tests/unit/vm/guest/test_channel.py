"""The agent's end of the port against the host's: greetings, calls, frames."""

from __future__ import annotations

import itertools

import pytest

from crib.stubs.vm import guest_pb2
from crib.vm.guest import channel
from crib.wire import mux, ttrpc
from crib.wire.rpc_codes import Code
from crib.wire.ttrpc_calls import Answered, ClientCalls

NONCE = bytes(range(16))


def greeted(generation: int = 1) -> channel.Channel:
    one = channel.Channel(generation, NONCE)
    assert list(one.receive(one.greeting)) == []
    assert one.is_greeted
    return one


def call(calls: ClientCalls, payload: bytes = b"x") -> bytes:
    _, data = calls.open(ttrpc.Request("a.Service", "Method", payload))
    return mux.frames(channel.CALLS, data)


def test_a_greeting_is_what_the_protocol_says() -> None:
    greeting = channel.Channel(3, NONCE).greeting
    ((number, payload),) = mux.MuxReader().receive(greeting)
    assert number == channel.GREETINGS
    read = guest_pb2.Greeting.FromString(payload)
    assert (read.version, read.generation, read.nonce) == (1, 3, NONCE)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_what_an_earlier_agent_was_sent_is_passed_over(size: int) -> None:
    one = channel.Channel(2, NONCE)
    calls = ClientCalls()
    stale = call(calls, b"old" * 100)[5:] + channel.Channel(1, bytes(16)).greeting + one.greeting[:20]
    data = stale + one.greeting + call(calls, b"new")
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    found = list(itertools.chain.from_iterable(map(one.receive, pieces)))
    assert [(service, method, payload) for _, service, method, payload in found] == [
        ("a.Service", "Method", b"new")
    ]


@pytest.mark.parametrize("size", [1, 11, 4096, 1 << 20])
def test_calls_come_however_their_bytes_are_cut(size: int) -> None:
    one, calls = greeted(), ClientCalls()
    payloads = [b"", b"a", bytes(5000), bytes(100_000)]
    data = b"".join(call(calls, payload) for payload in payloads)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    found = list(itertools.chain.from_iterable(map(one.receive, pieces)))
    assert [(stream, payload) for stream, _, _, payload in found] == list(
        zip((1, 3, 5, 7), payloads, strict=True)
    )


def test_answers_are_those_that_the_host_reads_and_no_frame_is_too_long() -> None:
    calls, reader = ClientCalls(), mux.MuxReader()
    for _ in range(3):
        call(calls)
    frames = [
        *channel.answer(1, bytes(200_000)),
        *channel.answer(3, b""),
        *channel.refusal(5, Code.NOT_FOUND, "id: there is none"),
    ]
    assert max(map(len, frames)) == channel.FRAME_BYTES
    for number, piece in reader.receive(b"".join(frames)):
        assert number == channel.CALLS
        calls.feed(piece)
    answers = []
    while (event := calls.next_event()) is not None:
        assert isinstance(event, Answered)
        answers.append(
            (event.stream, event.response.code, event.response.message, len(event.response.payload))
        )
    assert answers == [
        (1, 0, "", 200_000),
        (3, 0, "", 0),
        (5, Code.NOT_FOUND, "id: there is none", 0),
    ]


def test_other_numbers_and_other_frames_are_dropped() -> None:
    one, calls = greeted(), ClientCalls()
    calls.open(ttrpc.Request("a.Service", "Method"))
    data = channel.frame(9, b"whatever") + channel.frame(
        channel.CALLS, ttrpc.frame(1, ttrpc.Kind.DATA, 0, b"x")
    )
    assert list(one.receive(data + call(calls))) == [(3, "a.Service", "Method", b"x")]


@pytest.mark.parametrize(
    "data",
    [
        channel.frame(channel.CALLS, b"\x7f" + bytes(9)),
        (1).to_bytes(4, "big") + (1 << 31).to_bytes(4, "big"),
        channel.frame(channel.CALLS, ttrpc.frame(1, ttrpc.Kind.REQUEST, 0, b"\x0a\xff")),
    ],
    ids=["a message without end", "a frame without end", "a request that is none"],
)
def test_what_cannot_be_ends_the_connection(data: bytes) -> None:
    with pytest.raises(channel.Broken):
        list(greeted().receive(data))
