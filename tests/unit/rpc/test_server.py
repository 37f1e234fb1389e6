"""Calls of gRPC as a client sees them that sends frame by frame."""

from __future__ import annotations

import asyncio
import socket

import pytest

from crib.rpc.connection import TURN, UNREAD_LIMIT
from crib.wire.http2 import frames
from crib.wire.http2.frames import EndReason
from tests.fakes.world import bounded, turns
from tests.unit.rpc.lab import CALLS_LIMIT, PIECE, Lab
from tests.unit.rpc.raw_client import RawClient, connected, head, message

LARGE = 3 << 20
"""Bytes of an answer."""


async def test_a_call_is_answered_with_head_content_and_trailers(client: RawClient) -> None:
    client.call(1, "/Echo", b"hello")
    first = await client.next(frames.HEADERS, 1)
    assert dict(client.headers.read(first.content)) == {":status": "200", "content-type": "application/grpc"}
    assert await client.ending(1) == (message(b"hello"), {"grpc-status": "0"})


async def test_a_head_in_pieces_and_padded_content_are_the_same_call(client: RawClient) -> None:
    whole = head("/Echo", x_long="l" * 9000)
    client.send(frames.HEADERS, 0, 1, whole[:10])
    client.send(frames.CONTINUATION, 0, 1, whole[10:20])
    client.send(frames.CONTINUATION, frames.END_HEADERS, 1, whole[20:])
    body = message(b"hello")
    client.send(frames.DATA, frames.PADDED, 1, b"\x03" + body[:4] + bytes(3))
    client.send(frames.DATA, 0, 1, body[4:])
    client.send(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1)
    assert (await client.ending(1))[0] == body


async def test_calls_of_one_reading_beyond_a_turn_do_not_hold_up_the_loop(client: RawClient) -> None:
    for number in range(TURN + 2):
        client.call(2 * number + 1, "/Quick", b"x")
    answers = [(await client.ending(2 * number + 1))[0] for number in range(TURN + 2)]
    assert answers == [message(b"x")] * TURN + [message(b"late x")] * 2


async def test_a_handler_writes_no_more_than_its_client_takes(lab: Lab, client: RawClient) -> None:
    client.call(1, "/Many", b"40")
    await client.next(frames.DATA, 1)
    await turns()
    before = lab.wrote
    assert before <= 1  # the first window is 65,535 bytes
    other = asyncio.ensure_future(_ask(lab.path))
    assert await other == message(b"meanwhile")
    assert lab.wrote == before
    client.seen.clear()
    client.allow(0, frames.WINDOW)
    client.allow(1, frames.WINDOW)
    content, trailers = await client.ending(1)
    assert (lab.wrote, trailers) == (40, {"grpc-status": "0"})
    assert (message(PIECE) * 40).endswith(content)


async def _ask(path: str) -> bytes:
    async with connected(path) as client:
        client.call(1, "/Echo", b"meanwhile")
        return (await client.ending(1))[0]


async def test_a_request_beyond_the_window_stays_with_its_sender_until_it_is_read(
    lab: Lab, client: RawClient
) -> None:
    body = message(b"r" * 200_000)
    client.send(frames.HEADERS, frames.END_HEADERS, 1, head("/Slow"))
    window, at = frames.WINDOW, 0
    while at < window:
        size = min(frames.FRAME_BYTES, window - at)
        client.send(frames.DATA, 0, 1, body[at : at + size])
        at += size
    await client.next(frames.WINDOW_UPDATE, 0)
    await _ask(lab.path)
    assert not [found for found in client.seen if (found.kind, found.stream) == (frames.WINDOW_UPDATE, 1)]
    lab.reads.set()
    more = await client.next(frames.WINDOW_UPDATE, 1)
    assert int.from_bytes(more.content, "big") == len(body) - window
    while at < len(body):
        last = at + frames.FRAME_BYTES >= len(body)
        client.send(frames.DATA, int(last), 1, body[at : at + frames.FRAME_BYTES])
        at += frames.FRAME_BYTES
    assert (await client.ending(1))[0] == message(b"200000")


async def test_a_small_window_holds_for_calls_that_are_open(client: RawClient) -> None:
    client.writer.write(frames.settings({frames.INITIAL_WINDOW_SIZE: 3, frames.MAX_FRAME_SIZE: 1 << 20}))
    client.call(1, "/Echo", b"hello")
    assert (await client.next(frames.DATA, 1)).content == message(b"hello")[:3]
    client.writer.write(frames.settings({frames.INITIAL_WINDOW_SIZE: 5}))
    assert (await client.next(frames.DATA, 1)).content == message(b"hello")[3:5]
    client.allow(1, 100)
    assert await client.ending(1) == (b"hello", {"grpc-status": "0"})


async def test_calls_beyond_the_limit_are_refused_until_others_have_ended(
    lab: Lab, client: RawClient
) -> None:
    for number in range(CALLS_LIMIT + 1):
        client.call(2 * number + 1, "/Wait")
    _, trailers = await client.ending(2 * CALLS_LIMIT + 1)
    assert (trailers["grpc-status"], trailers["grpc-message"]) == ("8", "too many calls at once")
    assert lab.waiting == CALLS_LIMIT
    lab.let_go.set()
    assert (await client.ending(1))[0] == message(b"waited")
    client.call(2 * CALLS_LIMIT + 3, "/Echo", b"again")
    assert (await client.ending(2 * CALLS_LIMIT + 3))[0] == message(b"again")


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("/Nothing", message(b""), "12", "crib has no method /Nothing"),
        ("/Echo", b"\x01\x00\x00\x00\x01x", "12", "a compressed message, which crib does not take"),
        ("/Echo", b"\x00\x7f\xff\xff\xff", "8", "a message of 2147483647 bytes is larger than"),
        ("/Fail", message(b""), "13", "ZeroDivisionError: oops"),
        ("/Big", message(b"x"), "13", "ValueError: invalid literal"),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_a_code(
    client: RawClient, path: str, body: bytes, code: str, text: str
) -> None:
    client.send(frames.HEADERS, frames.END_HEADERS, 1, head(path))
    client.send(frames.DATA, 0, 1, body)
    content, trailers = await client.ending(1)
    assert (content, trailers["grpc-status"]) == (b"", code)
    assert trailers["grpc-message"].startswith(text)
    await client.next(frames.RST_STREAM, 1)  # it had not ended its own side


async def test_too_many_headers_are_refused_and_other_calls_go_on(client: RawClient) -> None:
    whole = head("/Echo", x_long="l" * 16_000, x_more="m" * 1000)
    client.send(frames.HEADERS, 0, 1, whole[:16_000])
    client.send(frames.CONTINUATION, frames.END_HEADERS, 1, whole[16_000:])
    assert (await client.ending(1))[1]["grpc-status"] == "8"
    client.call(3, "/Echo", b"x")
    assert (await client.ending(3))[0] == message(b"x")


async def test_a_call_whose_time_is_over_is_ended(lab: Lab, client: RawClient) -> None:
    client.call(1, "/Wait", b"", grpc_timeout="20m")
    assert (await client.ending(1))[1]["grpc-status"] == "4"
    async with bounded():
        await lab.cancelled.wait()


async def test_a_call_that_its_client_gives_up_is_cancelled_alone(lab: Lab, client: RawClient) -> None:
    client.call(1, "/Wait")
    client.call(3, "/Wait")
    await client.next(frames.HEADERS, 1)
    client.send(frames.RST_STREAM, 0, 1, EndReason.CANCEL.to_bytes(4, "big"))
    async with bounded():
        await lab.cancelled.wait()
    lab.let_go.set()
    assert (await client.ending(3))[0] == message(b"waited")


async def test_calls_of_a_client_that_has_gone_are_cancelled(lab: Lab) -> None:
    async with connected(lab.path) as client:
        client.call(1, "/Wait")
        client.call(3, "/Many", b"40")
        await client.next(frames.HEADERS, 1)
        await client.next(frames.DATA, 3)
    async with bounded():
        await lab.cancelled.wait()


FAULTS = [
    ([(frames.CONTINUATION, 0, 1, b"")], EndReason.PROTOCOL_ERROR),
    ([(frames.HEADERS, 0, 1, b""), (frames.PING, 0, 0, bytes(8))], EndReason.PROTOCOL_ERROR),
    (
        [(frames.HEADERS, 0, 1, b""), *5 * [(frames.CONTINUATION, 0, 1, bytes(16384))]],
        EndReason.ENHANCE_YOUR_CALM,
    ),
    ([(frames.HEADERS, frames.END_HEADERS, 1, b"\x80")], EndReason.COMPRESSION_ERROR),
    ([(frames.HEADERS, frames.END_HEADERS, 2, head("/Echo"))], EndReason.PROTOCOL_ERROR),
    ([(frames.DATA, 0, 1, b"x")], EndReason.PROTOCOL_ERROR),
    ([(frames.PUSH_PROMISE, 0, 1, b"")], EndReason.PROTOCOL_ERROR),
    ([(frames.SETTINGS, 0, 0, b"12345")], EndReason.FRAME_SIZE_ERROR),
    ([(frames.SETTINGS, 0, 0, b"\x00\x04\xff\xff\xff\xff")], EndReason.FLOW_CONTROL_ERROR),
    ([(frames.SETTINGS, 0, 0, b"\x00\x05\x00\x00\x00\x01")], EndReason.PROTOCOL_ERROR),
    ([(frames.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")], EndReason.FLOW_CONTROL_ERROR),
    ([(frames.WINDOW_UPDATE, 0, 0, b"\x7f")], EndReason.FRAME_SIZE_ERROR),
    (
        [
            (frames.HEADERS, frames.END_HEADERS, 1, head("/Wait")),
            (frames.DATA, 0, 1, message(b"")),
            *5 * [(frames.DATA, 0, 1, bytes(16384))],
        ],
        EndReason.FLOW_CONTROL_ERROR,
    ),
]


@pytest.mark.parametrize(("sent", "fault"), FAULTS)
async def test_a_client_that_breaks_the_rules_is_told_how_and_loses_its_connection(
    lab: Lab, client: RawClient, sent: list[tuple[int, int, int, bytes]], fault: EndReason
) -> None:
    for kind, flags, stream, content in sent:
        client.send(kind, flags, stream, content)
    assert await client.fault() is fault
    assert await _ask(lab.path) == message(b"meanwhile")


async def test_who_speaks_no_http2_is_sent_away(lab: Lab) -> None:
    reader, writer = await asyncio.open_unix_connection(lab.path)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with bounded():
        while await reader.read(1000):
            pass
    writer.close()


async def test_a_client_that_asks_and_never_reads_is_cut_off(lab: Lab) -> None:
    """By a plain socket: it has no room for what it does not read."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.setblocking(False)
        await loop.sock_connect(mute, lab.path)
        await loop.sock_sendall(mute, frames.PREFACE)
        pings = frames.frame(frames.PING, 0, 0, bytes(8)) * 10_000
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012  # after some of them
            for _ in range(2 * UNREAD_LIMIT // len(pings) + 20):
                async with bounded():
                    await loop.sock_sendall(mute, pings)
    assert await _ask(lab.path) == message(b"meanwhile")


async def test_a_stop_lets_open_calls_end_and_takes_no_more(lab: Lab, client: RawClient) -> None:
    client.call(1, "/Wait")
    client.call(3, "/Echo", b"x")
    await client.ending(3)
    stopping = asyncio.ensure_future(lab.server.stop(60))
    await client.next(frames.GOAWAY, 0)
    client.call(5, "/Echo", b"x")
    found = await client.next(frames.RST_STREAM, 5)
    assert int.from_bytes(found.content, "big") == EndReason.REFUSED_STREAM
    lab.let_go.set()
    assert (await client.ending(1))[0] == message(b"waited")
    async with bounded():
        await stopping
    with pytest.raises(EOFError):
        await client.next(frames.PING, 0)


async def test_a_stop_does_not_wait_for_calls_beyond_its_grace(lab: Lab, client: RawClient) -> None:
    client.call(1, "/Wait")
    client.call(3, "/Echo", b"x")
    await client.ending(3)
    await lab.server.stop(0)
    assert lab.cancelled.is_set()


async def test_a_large_answer_waits_for_its_client_in_the_call_and_not_in_the_connection(
    lab: Lab, client: RawClient
) -> None:
    """However large its windows and frames are: what a connection holds, only its end frees."""
    window = 1 << 30
    client.writer.write(
        frames.settings({frames.INITIAL_WINDOW_SIZE: window, frames.MAX_FRAME_SIZE: frames.LARGEST_FRAME})
    )
    client.allow(0, window)
    for number in range(TURN):
        client.call(2 * number + 1, "/Big", str(LARGE).encode())
    first = await client.next(frames.DATA, 1)
    (connection,) = lab.server._connections
    assert connection._transport.get_write_buffer_size() < UNREAD_LIMIT // 2
    client.seen.insert(0, first)
    for number in range(TURN):
        content, trailers = await client.ending(2 * number + 1)
        assert (len(content), trailers) == (LARGE + 5, {"grpc-status": "0"})
