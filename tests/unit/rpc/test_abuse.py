"""What a client may do to hold up, fill or break the daemon, and what each of it comes to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from crib.wire.http2 import frames
from crib.wire.http2.frames import EndReason
from tests.fakes.world import turns
from tests.unit.rpc.lab import CALLS_LIMIT, Lab
from tests.unit.rpc.memory import Memory
from tests.unit.rpc.raw_client import RawClient, head, message

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
