"""What is still heard after a command has ended, from those that it left behind with its pipe or terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import tty
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from crib.host import streams
from crib.host.streams import PIPE_BYTES, Source, make_pipe
from crib.host.terminals import TerminalSource

NEVER = 3600.0
BOUND = 10.0


@dataclass
class Ends:
    """Our end, and the descriptor that is held by the command and its children."""

    source: Source
    other: int

    async def rest(self) -> bytes:
        found = b""
        async with asyncio.timeout(BOUND):
            while data := await self.source.read():
                found += data
        return found


@pytest.fixture(params=["pipe", "terminal"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    if request.param == "pipe":
        reading, writing = make_pipe()
        made = Ends(Source(reading), writing)
    else:
        master, slave = pty.openpty()
        tty.setraw(slave)
        made = Ends(TerminalSource(master), slave)
    yield made
    made.source.close()
    if made.other >= 0:
        os.close(made.other)


async def test_a_child_that_writes_a_moment_later_is_heard_and_its_end_is_the_end(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LAST_WORDS", NEVER)
    os.write(ends.other, b"before,")
    ends.source.end()
    assert await ends.source.read() == b"before,"
    reading = asyncio.ensure_future(ends.rest())
    for _turn in range(5):
        await asyncio.sleep(0)
    os.write(ends.other, b"after")
    os.close(ends.other)
    ends.other = -1
    assert await reading == b"after"


async def test_a_child_that_says_nothing_delays_the_end_by_a_moment_only(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LAST_WORDS", 0.05)
    loop = asyncio.get_running_loop()
    os.write(ends.other, b"last")
    began = loop.time()
    ends.source.end()
    assert await ends.rest() == b"last"
    assert loop.time() - began >= 0.05


async def test_the_moment_is_one_from_the_command_s_end_whatever_comes_within(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who says a little now and then would delay the end for ever. Only the test turns the clock on."""
    monkeypatch.setattr(streams, "LAST_WORDS", NEVER)
    loop = asyncio.get_running_loop()
    real, ahead = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)
    ends.source.end()
    for later in (0.4 * NEVER, 0.8 * NEVER, 1.2 * NEVER):
        ahead = later
        os.write(ends.other, b".")
        assert await ends.source.read() == b"."
    async with asyncio.timeout(BOUND):
        assert await ends.source.read() == b""


async def test_a_late_reader_still_gets_all_that_the_command_wrote(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LAST_WORDS", 0.0)
    os.set_blocking(ends.other, False)
    written = 0
    try:
        while True:
            written += os.write(ends.other, b"x" * 1000)
    except BlockingIOError:
        ends.source.end()
    assert len(await ends.rest()) == written > 10_000


async def test_a_child_that_never_stops_writing_is_cut_off(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LAST_WORDS", NEVER)
    os.set_blocking(ends.other, False)
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            try:
                written += os.write(ends.other, b"x" * 4000)
            except BlockingIOError:
                await asyncio.sleep(0)

    writing = asyncio.ensure_future(write())
    while not written:  # noqa: ASYNC110  some is there before the end
        await asyncio.sleep(0)
    ends.source.end()
    assert len(await ends.rest()) <= PIPE_BYTES + streams._REST
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
