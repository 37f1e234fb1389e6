"""Any bytes behind the greeting of an HTTP/2 client: calls begin, end or are refused, and none is left over.

One of the targets of `targets.py`. What begins is the same however the bytes are cut. Only a client that goes
on with a call that has ended may or may not be told so: that depends on whether the answer has gone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from crib.rpc.call import GrpcCall
from crib.rpc.connection import LARGE_FRAME, UNREAD_LIMIT
from crib.wire.http2 import frames
from crib.wire.http2.frames import EndReason
from tests.unit.rpc.lab import Lab
from tests.unit.rpc.memory import HIGH_WATER, Memory

PIECE = 7
TURNS = 8
MOST = UNREAD_LIMIT + HIGH_WATER + LARGE_FRAME
"""Bytes that wait for a client at most."""
LATE = {EndReason.STREAM_CLOSED, EndReason.FLOW_CONTROL_ERROR}


@dataclass
class Course:
    """What came of the bytes."""

    begun: list[tuple[int, str, int]] = field(default_factory=list)
    """Stream, method, and size of the headers."""
    fault: EndReason | None = None


def one_input(data: bytes) -> None:
    whole = _run([data])
    cut = _run([data[at : at + PIECE] for at in range(0, len(data), PIECE)])
    if whole.fault == cut.fault:
        assert whole.begun == cut.begun
    else:
        assert {whole.fault, cut.fault} & LATE
        assert all(one == other for one, other in zip(whole.begun, cut.begun, strict=False))


def _run(pieces: list[bytes]) -> Course:
    loop, failed = asyncio.new_event_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: failed.append(context))
    try:
        course = loop.run_until_complete(_course(pieces))
    finally:
        loop.close()
    assert not failed, failed
    return course


async def _course(pieces: list[bytes]) -> Course:
    course, lab = Course(), Lab("")
    begin = lab.server.begin

    def record(call: GrpcCall, *, at_once: bool) -> None:
        course.begun.append((call.stream, call.path, len(call.metadata)))
        begin(call, at_once=at_once)

    lab.server.begin = record  # type: ignore[method-assign]  # told beside what it does
    client = Memory(lab.server)
    client.greet()
    for piece in pieces:
        client.send(piece)
    await _turns()
    client.take(always=True)
    await _turns()
    course.fault = _fault(bytes(client.read))
    client.leave()
    await _turns()
    assert client.most <= MOST
    assert (lab.server._open, len(lab.server._connections), len(asyncio.all_tasks())) == (0, 0, 1)
    return course


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def _fault(data: bytes) -> EndReason | None:
    """Of the frames that came; all are whole, and none is larger than allowed."""
    at, found = 0, None
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 3], "big"), data[at + 3]
        assert at + frames.HEAD_BYTES + length <= len(data)
        at += frames.HEAD_BYTES
        if kind == frames.GOAWAY:
            found = EndReason(int.from_bytes(data[at + 4 : at + 8], "big"))
        at += length
    return found
