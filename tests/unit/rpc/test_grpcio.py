"""The server as grpcio's clients see it, that of asyncio and that of threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio

from tests.fakes.world import bounded, turns
from tests.unit.rpc.lab import LARGEST, MESSAGE_LIMIT, MOST_PIECES, PIECE, Lab

TEXT = 'gr\u00fc\u00dfe, 100 % "\u2603"\n\tand a tab \x7f'


@pytest.fixture
async def channel(lab: Lab) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(f"unix:{lab.path}") as channel:
        yield channel


async def _code(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as caught:
        async with bounded():
            await call
    return caught.value.code(), caught.value.details() or ""


async def test_many_calls_at_once_are_all_answered(channel: Any) -> None:
    calls = [channel.unary_unary("/Echo")(b"%d" % n) for n in range(40)]
    async with bounded():
        answers = await asyncio.gather(*calls)
    assert answers == [b"%d" % n for n in range(40)]


async def test_large_requests_and_streams_are_whole(channel: Any) -> None:
    body = b"r" * (MESSAGE_LIMIT - 1)
    async with bounded():
        assert await channel.unary_unary("/Echo")(body) == body
        stream = channel.unary_stream("/Many")(b"100")
        assert [piece async for piece in stream] == [PIECE] * MOST_PIECES


async def test_an_answer_beyond_what_its_client_takes_ends_that_call_alone(channel: Any) -> None:
    code, _ = await _code(channel.unary_unary("/Big")(b"%d" % LARGEST))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await channel.unary_unary("/Echo")(b"x") == b"x"


async def test_a_text_of_any_letters_arrives(channel: Any) -> None:
    assert await _code(channel.unary_unary("/Refuse")(TEXT.encode())) == (grpc.StatusCode.NOT_FOUND, TEXT)
    code, text = await _code(channel.unary_unary("/Refuse")(5000 * "\u2603".encode()))
    assert code is grpc.StatusCode.NOT_FOUND
    assert set(text) == {"\u2603"}


async def test_deadlines_cancellations_and_what_crib_does_not_take(lab: Lab, channel: Any) -> None:
    wait = channel.unary_unary("/Wait")
    assert (await _code(wait(b"", timeout=0.02)))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    async with bounded():
        await lab.cancelled.wait()
    lab.cancelled.clear()
    call = wait(b"")
    async with bounded():
        while lab.waiting < 2:
            await turns(1)
        call.cancel()
        await lab.cancelled.wait()
    packed = channel.unary_unary("/Echo")(1000 * b"x", compression=grpc.Compression.Gzip)
    assert (await _code(packed))[0] is grpc.StatusCode.UNIMPLEMENTED
    said = (("some-bin", b"\0\xff"), ("some", "text"))
    assert await channel.unary_unary("/Echo")(b"x", metadata=said) == b"x"
    assert lab.server._open == 0


async def test_a_client_of_threads_is_answered_until_the_server_stops(lab: Lab) -> None:
    def ask() -> list[Any]:
        channel: Any
        with grpc.insecure_channel(f"unix:{lab.path}") as channel:
            answers: list[Any] = [channel.unary_unary("/Echo")(b"x", timeout=20)]
            answers += channel.unary_stream("/Many")(b"3", timeout=20)
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/Nothing")(b"", timeout=20)
            return [*answers, caught.value.code()]

    assert await asyncio.to_thread(ask) == [b"x", *[PIECE] * 3, grpc.StatusCode.UNIMPLEMENTED]


async def test_a_client_whose_server_stops_comes_again_to_the_next(lab: Lab, channel: Any) -> None:
    assert await channel.unary_unary("/Echo")(b"x") == b"x"
    await lab.server.stop(0)
    assert (await _code(channel.unary_unary("/Echo")(b"x")))[0] is grpc.StatusCode.UNAVAILABLE
    os.unlink(lab.path)
    again = Lab(lab.path)
    await again.start()
    async with bounded():
        assert await channel.unary_unary("/Echo")(b"y", wait_for_ready=True) == b"y"
    await again.server.stop(0)
