"""What a client may do to hold up, fill or break the daemon, and what each of it comes to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from crib.rpc import server
from crib.wire.http2 import frames, hpack, huffman
from crib.wire.http2.frames import EndReason
from tests.fakes.world import turns
from tests.unit.rpc.lab import CALLS_LIMIT, Lab
from tests.unit.rpc.memory import Memory
from tests.unit.rpc.raw_client import HEAD, RawClient, head, message

if TYPE_CHECKING:
    from _typeshed import TraceFunction

OPEN = (frames.HEADERS, frames.END_HEADERS, 1, head("/Wait"))
ENDED = (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, head("/Wait"))
RULES = {
    "a call on stream 0": ([(frames.HEADERS, frames.END_HEADERS, 0, b"")], EndReason.PROTOCOL_ERROR),
    "content on stream 0": ([(frames.DATA, 0, 0, b"x")], EndReason.PROTOCOL_ERROR),
    "settings of a stream": ([(frames.SETTINGS, 0, 1, b"")], EndReason.PROTOCOL_ERROR),
    "an answer to settings with content": (
        [(frames.SETTINGS, frames.ACK, 0, bytes(6))],
        EndReason.FRAME_SIZE_ERROR,
    ),
    "a ping of a stream": ([(frames.PING, 0, 1, bytes(8))], EndReason.PROTOCOL_ERROR),
    "a long ping": ([(frames.PING, 0, 0, bytes(9))], EndReason.FRAME_SIZE_ERROR),
    "a reset of stream 0": ([(frames.RST_STREAM, 0, 0, bytes(4))], EndReason.PROTOCOL_ERROR),
    "a reset of a stream that never was": (
        [(frames.RST_STREAM, 0, 3, bytes(4))],
        EndReason.PROTOCOL_ERROR,
    ),
    "a long reset": ([OPEN, (frames.RST_STREAM, 0, 1, bytes(5))], EndReason.FRAME_SIZE_ERROR),
    "no more window": ([(frames.WINDOW_UPDATE, 0, 0, bytes(4))], EndReason.PROTOCOL_ERROR),
    "no more window for a call": ([OPEN, (frames.WINDOW_UPDATE, 0, 1, bytes(4))], EndReason.PROTOCOL_ERROR),
    "a call's window that is too large": (
        [OPEN, (frames.WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff")],
        EndReason.FLOW_CONTROL_ERROR,
    ),
    "content behind the end": ([ENDED, (frames.DATA, 0, 1, message(b""))], EndReason.STREAM_CLOSED),
    "headers behind the end": ([ENDED, ENDED], EndReason.STREAM_CLOSED),
    "a goodbye of a stream": ([(frames.GOAWAY, 0, 1, bytes(8))], EndReason.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("rule", RULES)
async def test_a_client_that_breaks_a_rule_of_frames_loses_its_connection(
    client: RawClient, rule: str
) -> None:
    sent, fault = RULES[rule]
    for kind, flags, stream, content in sent:
        client.send(kind, flags, stream, content)
    assert await client.fault() is fault


async def test_frames_that_mean_nothing_to_a_server_change_nothing(client: RawClient) -> None:
    client.send(frames.GOAWAY, 0, 0, bytes(8))
    client.send(frames.PRIORITY, 0, 9, bytes(5))
    client.send(0xFA, 0xFF, 7, b"unknown")
    client.send(frames.SETTINGS, frames.ACK, 0)
    client.send(frames.PING, frames.ACK, 0, bytes(8))
    client.call(1, "/Echo", b"x")
    client.send(frames.WINDOW_UPDATE, 0, 99, b"\0\0\0\1")
    assert (await client.ending(1))[0] == message(b"x")
    client.send(frames.RST_STREAM, 0, 1, bytes(4))  # of a call that has ended
    client.send(frames.DATA, frames.END_STREAM, 1, b"late")
    client.call(3, "/Echo", b"y")
    assert (await client.ending(3))[0] == message(b"y")


@pytest.mark.parametrize("path", ["/" + 15_000 * "p", "/" + 7_000 * "\xff"])
async def test_a_text_that_fits_no_frame_is_cut(client: RawClient, path: str) -> None:
    client.call(1, path)
    trailers = await client.next(frames.HEADERS, 1)
    assert len(trailers.content) < 8192  # what clients take by default
    said = dict(client.headers.read(trailers.content))
    assert said["grpc-status"] == "12"
    assert said["grpc-message"].startswith("crib has no method /")


async def test_a_handler_that_is_cancelled_by_what_it_waited_for_still_answers(
    lab: Lab, client: RawClient
) -> None:
    client.call(1, "/Stop")
    assert (await client.ending(1))[1]["grpc-status"] == "14"
    assert lab.server._open == 0


async def test_padding_that_takes_the_window_does_not_keep_a_call_from_its_handler(client: RawClient) -> None:
    client.send(frames.HEADERS, frames.END_HEADERS, 1, head("/Echo"))
    left = frames.WINDOW
    while left:
        size = min(left, 256)
        client.send(frames.DATA, frames.PADDED, 1, bytes((size - 1,)) + bytes(size - 1))
        left -= size
    await client.next(frames.WINDOW_UPDATE, 1)
    client.send(frames.DATA, frames.END_STREAM, 1, message(b"x"))
    assert (await client.ending(1))[0] == message(b"x")


def lines_of(work: Callable[[], object]) -> int:
    """Lines that `crib.rpc` runs for it, which is no matter of speed."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        nonlocal lines
        if not frame.f_globals["__name__"].startswith("crib.rpc"):
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize(
    "sent",
    [frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), frames.settings({frames.INITIAL_WINDOW_SIZE: 0})],
    ids=["windows", "settings"],
)
async def test_what_a_small_frame_costs_does_not_grow_with_the_calls_that_are_open(
    lab: Lab, sent: bytes
) -> None:
    costs = []
    for calls in (1, CALLS_LIMIT - 1):
        client = Memory(lab.server)
        client.greet({frames.INITIAL_WINDOW_SIZE: 0})
        for number in range(calls):
            stream = 2 * number + 1
            client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, head("/Quick")))
            client.send(frames.frame(frames.DATA, frames.END_STREAM, stream, message(b"x")))
        costs.append(lines_of(lambda client=client: client.send(100 * sent)))  # type: ignore[misc]
        client.leave()
        await turns()
    assert costs[1] < 2 * costs[0]


async def test_beyond_the_limit_of_connections_the_oldest_idle_one_has_to_go(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_LIMIT", 3)
    busy, idle = Memory(lab.server), [Memory(lab.server) for _ in range(2)]
    idle[0].take(always=True)
    busy.greet()
    busy.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, head("/Wait")))
    more = [Memory(lab.server) for _ in range(2)]
    await turns()
    assert [client.is_closed for client in (busy, *idle, *more)] == [False, True, True, False, False]
    assert frames.head(frames.GOAWAY, 0, 0, 8) in idle[0].read
    for client in more:
        client.greet()
        client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, head("/Wait")))
    last = Memory(lab.server)
    for client in (busy, *more, last):
        assert not client.is_closed
        client.leave()
    await turns()


async def test_an_answer_that_its_client_does_not_take_goes_at_its_deadline(client: RawClient) -> None:
    client.writer.write(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    client.call(1, "/Echo", b"x", grpc_timeout="20m")
    assert (await client.ending(1))[1]["grpc-status"] == "4"


def test_long_packed_strings_are_not_kept() -> None:
    packed = bytes(1000)
    before = huffman._kept.cache_info().currsize
    assert huffman.unpacked(packed)
    assert huffman._kept.cache_info().currsize == before


async def test_calls_that_are_reset_at_once_count_until_their_handlers_have_ended(lab: Lab) -> None:
    client = Memory(lab.server)
    client.greet()
    pieces = []
    for number in range(10 * CALLS_LIMIT):
        stream = 2 * number + 1
        pieces.append(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, head("/Wait")))
        pieces.append(frames.frame(frames.DATA, frames.END_STREAM, stream, message(b"")))
        pieces.append(frames.frame(frames.RST_STREAM, 0, stream, bytes(4)))
    before = len(asyncio.all_tasks())
    client.send(b"".join(pieces))
    assert len(asyncio.all_tasks()) - before <= CALLS_LIMIT
    await turns()
    assert (len(asyncio.all_tasks()), lab.server._open) == (before, 0)
    client.leave()
    await turns()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({":path": ""}, "12"),
        ({":path": "Echo"}, "12"),
        ({":path": "/Echo/"}, "12"),
        ({":method": "GET", "te": "", "content-type": "text/plain"}, "0"),
        ({"grpc-timeout": "99999999H"}, "0"),
        ({"grpc-timeout": "-1S"}, "0"),
        ({"grpc-timeout": "1"}, "0"),
        ({"grpc-timeout": "1" + 5000 * "0" + "S"}, "0"),
        ({"grpc-encoding": "identity", "grpc-accept-encoding": "gzip, identity"}, "0"),
        ({"some-bin": "AAEC/w==", "user-agent": 5000 * "\xff"}, "0"),
    ],
)
async def test_odd_headers_are_answered_as_any(
    client: RawClient, fields: dict[str, str], status: str
) -> None:
    said = {**HEAD, ":path": "/Echo", **fields}
    block = b"".join(hpack.literal(name, value) for name, value in said.items())
    client.send(frames.HEADERS, frames.END_HEADERS, 1, block)
    client.send(frames.DATA, frames.END_STREAM, 1, message(b"x") + message(b"behind it"))
    content, trailers = await client.ending(1)
    assert (content, trailers["grpc-status"]) == (message(b"x") if status == "0" else b"", status)


async def test_a_call_whose_time_is_nothing_ends_at_once(lab: Lab, client: RawClient) -> None:
    client.call(1, "/Wait", grpc_timeout="0n")
    assert (await client.ending(1))[1]["grpc-status"] == "4"
    await turns()
    assert lab.server._open == 0


@pytest.mark.parametrize("body", [b"", b"\0\0", message(b"abc")[:-1]])
async def test_a_call_that_ends_within_its_request_has_none(client: RawClient, body: bytes) -> None:
    client.send(frames.HEADERS, frames.END_HEADERS, 1, head("/Echo"))
    client.send(frames.DATA, frames.END_STREAM, 1, body)
    assert (await client.ending(1))[0] == message(b"nothing")
