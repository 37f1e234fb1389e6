"""The connection to a guest's agents: greetings, frames, and agents that are started again."""

from __future__ import annotations

import asyncio

import pytest

from crib.ttrpc.errors import PeerLost
from crib.ttrpc.server import ServedCall
from crib.vm.shim.link import FRAME_BYTES, GREETING_BYTES, frames, read_greeting
from tests.fakes.world import bounded
from tests.unit.vm.shim.fake_agent import greeting, linked


async def echo(call: ServedCall) -> bytes:
    return call.payload


async def for_ever(_call: ServedCall) -> bytes:
    await asyncio.Event().wait()
    return b""


SERVICES = {"s": {"Echo": echo, "Wait": for_ever}}


async def test_a_greeting_comes_back_and_calls_follow() -> None:
    async with bounded(), linked() as (link, agent):
        waiting = asyncio.ensure_future(link.client())
        sent = agent.greet(1, SERVICES)
        client = await waiting
        assert await agent.answered.get() == sent
        assert await client.call("s", "Echo", b"hello", 5) == b"hello"
        assert (link.generation, len(sent)) == (1, GREETING_BYTES)


async def test_no_frame_is_larger_than_a_port_takes_whole() -> None:
    async with bounded(), linked() as (link, agent):
        agent.greet(1, SERVICES)
        client = await link.client()
        message = bytes(range(256)) * 1000
        assert await client.call("s", "Echo", message, 5) == message
        assert agent.longest == FRAME_BYTES


async def test_calls_of_an_agent_that_was_started_again_are_over() -> None:
    async with bounded(), linked() as (link, agent):
        agent.greet(1, SERVICES)
        first = await link.client()
        call = asyncio.ensure_future(first.call("s", "Wait", b"", None))
        await asyncio.sleep(0)
        agent.greet(2, SERVICES)
        with pytest.raises(PeerLost, match="started again"):
            await call
        second = await link.client(after=1)
        assert await second.call("s", "Echo", b"x", 5) == b"x"
        with pytest.raises(PeerLost):
            await first.call("s", "Echo", b"x", 5)
        assert link.generation == 2


@pytest.mark.parametrize(
    "sent",
    [
        frames(0, b"\x0d" + bytes(GREETING_BYTES - 1)),
        frames(0, greeting(1, version=2)),
        b"\xff" * 64,
    ],
    ids=["no greeting", "another version", "no frames"],
)
async def test_what_is_not_understood_ends_the_connection(sent: bytes) -> None:
    async with bounded(), linked() as (link, agent):
        waiting = asyncio.ensure_future(link.client())
        agent.trunk.put(sent)
        with pytest.raises(PeerLost, match="not understood"):
            await waiting


def test_a_greeting_says_its_generation() -> None:
    assert read_greeting(greeting(7)).generation == 7
