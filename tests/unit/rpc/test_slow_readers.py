"""Clients that read late, or never."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from crib.rpc import server
from crib.rpc.connection import LARGE_FRAME, TURN
from crib.wire.http2 import frames
from tests.fakes.world import bounded, turns
from tests.unit.rpc.lab import Lab
from tests.unit.rpc.raw_client import head, message

WIDE = frames.settings({frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW, frames.MAX_FRAME_SIZE: 1 << 20})
ALLOWED = frames.frame(frames.WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big"))
PING = frames.frame(frames.PING, 0, 0, bytes(8))


def call(stream: int, path: str, content: bytes) -> bytes:
    begun = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, head(path))
    return begun + frames.frame(frames.DATA, frames.END_STREAM, stream, message(content))


@pytest.fixture
async def plain(lab: Lab) -> AsyncIterator[socket.socket]:
    """A connection whose client has large windows, and reads when it is told to."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as plain:
        plain.setblocking(False)
        await loop.sock_connect(plain, lab.path)
        await loop.sock_sendall(plain, frames.PREFACE + WIDE + ALLOWED)
        async with bounded():
            while not lab.server._connections:
                await turns(1)
        yield plain


async def read_all(plain: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    async with bounded():
        while piece := await loop.sock_recv(plain, 1 << 16):
            data += piece
    return bytes(data)


def content(data: bytes) -> dict[int, int]:
    """Bytes of content of each stream that has ended well."""
    sizes, whole, at = dict[int, int](), dict[int, int](), 0
    while at < len(data):
        length, kind, flags = int.from_bytes(data[at : at + 3], "big"), data[at + 3], data[at + 4]
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        if kind == frames.DATA:
            sizes[stream] = sizes.get(stream, 0) + length
        elif kind == frames.HEADERS and flags & frames.END_STREAM:
            whole[stream] = sizes[stream]
        at += 9 + length
    return whole


async def test_an_answer_that_its_client_reads_late_is_whole_after_a_stop(
    lab: Lab, plain: socket.socket
) -> None:
    await asyncio.get_running_loop().sock_sendall(plain, call(1, "/Big", b"400000"))
    async with bounded():
        while not lab.answered:
            await turns(1)
        stopping = asyncio.ensure_future(lab.server.stop(60))
        await asyncio.sleep(0)
        assert content(await read_all(plain)) == {1: 400_005}
        await stopping


async def test_a_stop_waits_for_no_client_that_does_not_read(
    lab: Lab, plain: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLOSE_LIMIT", 0.05)
    calls = call(1, "/Wait", b"") + call(3, "/Big", b"900000")
    await asyncio.get_running_loop().sock_sendall(plain, calls)
    async with bounded():
        while not (lab.waiting and lab.answered):
            await turns(1)
        await lab.server.stop(0)
    assert lab.cancelled.is_set()
    assert (lab.server._open, len(lab.server._connections)) == (0, 0)


@pytest.mark.parametrize(("number", "size"), [(1, 5 << 20), (TURN, LARGE_FRAME - 5)])
async def test_who_takes_large_frames_and_reads_late_is_not_cut_off(
    lab: Lab, plain: socket.socket, number: int, size: int
) -> None:
    """What goes in one turn stays below what a client may leave unread, pongs before it included."""
    loop = asyncio.get_running_loop()
    (connection,) = lab.server._connections
    async with bounded():
        while not connection._transport.get_write_buffer_size():
            await loop.sock_sendall(plain, 100 * PING)
            await turns(3)
    calls = b"".join(call(2 * each + 1, "/Big", str(size).encode()) for each in range(number))
    async with bounded():
        await loop.sock_sendall(plain, calls)
        while lab.answered < number:
            await turns(1)
    reading = asyncio.ensure_future(read_all(plain))
    async with bounded():
        await lab.server.stop(60)
    assert content(await reading) == {2 * each + 1: size + 5 for each in range(number)}
