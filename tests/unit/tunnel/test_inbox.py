"""What came and was not read yet: in which order it is given out, how much is held, and how it ends."""

from __future__ import annotations

import asyncio

import pytest

from crib.tunnel.inbox import READ_BYTES, SMALL_PIECE, Inbox, Room

BOUND = 60.0
LARGE = SMALL_PIECE * 2


async def all_of(inbox: Inbox) -> bytes:
    async with asyncio.timeout(BOUND):
        return b"".join([data async for data in inbox])


async def test_a_reader_waits_for_bytes_and_then_for_the_end() -> None:
    inbox = Inbox()
    reading = asyncio.ensure_future(all_of(inbox))
    await asyncio.sleep(0)
    for data in (b"a", b"", b"b" * LARGE, b"c"):
        inbox.feed(data)
        await asyncio.sleep(0)
    assert not reading.done()
    inbox.end()
    inbox.feed(b"after the end")
    assert await reading == b"a" + b"b" * LARGE + b"c"
    assert (inbox.size, await inbox.read()) == (0, b"")


async def test_a_read_joins_pieces_up_to_its_bound_and_never_cuts_one() -> None:
    inbox = Inbox()
    for size in (READ_BYTES - LARGE, LARGE, LARGE, 2 * READ_BYTES):
        inbox.feed(bytes(size))
    inbox.end()
    assert [len(await inbox.read()) for _ in range(4)] == [READ_BYTES, LARGE, 2 * READ_BYTES, 0]
    apart = Inbox()
    for size in (LARGE, LARGE):
        apart.feed(bytes(size))
    apart.end()
    assert [len(await apart.read(0)) for _ in range(3)] == [LARGE, LARGE, 0]
    assert (inbox.size, apart.size) == (0, 0)


async def test_what_is_pushed_back_comes_first_even_behind_the_end() -> None:
    inbox = Inbox()
    inbox.feed(b"b" * LARGE)
    inbox.end()
    inbox.push_back(b"a")
    assert (await inbox.read(0), await inbox.read(0), await inbox.read(0)) == (b"a", b"b" * LARGE, b"")


async def test_what_came_before_it_broke_can_still_be_read() -> None:
    inbox = Inbox()
    inbox.feed(b"said")
    inbox.break_off("the first reason")
    inbox.break_off("another")
    assert await inbox.read() == b"said"
    with pytest.raises(ConnectionResetError, match="the first reason"):
        await inbox.read()


async def test_an_end_outlasts_a_break_but_not_a_cut() -> None:
    broken, cut = Inbox(), Inbox()
    for inbox in (broken, cut):
        inbox.feed(b"half of it")
        inbox.end()
    broken.break_off("gone")
    cut.cut_off("gone")
    assert await all_of(broken) == b"half of it"
    with pytest.raises(ConnectionResetError, match="gone"):
        await cut.read()


async def test_who_asked_hears_of_a_break_at_once_or_before() -> None:
    heard: list[str] = []
    early, late = Inbox(), Inbox()
    early.when_broken(lambda: heard.append("early"))
    late.break_off("gone")
    late.when_broken(lambda: heard.append("late"))
    assert heard == ["late"]
    early.break_off("gone")
    assert heard == ["late", "early"]


async def test_a_room_is_shared_and_free_again_when_its_bytes_were_read_or_dropped() -> None:
    room = Room(100)
    read, dropped, cut = Inbox(room), Inbox(room), Inbox(room)
    await room.wait()
    read.feed(bytes(60))
    dropped.feed(bytes(30))
    cut.feed(bytes(10))
    waiting = asyncio.ensure_future(room.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    await read.read()
    async with asyncio.timeout(BOUND):
        await waiting
    dropped.discard()
    cut.cut_off("gone")
    dropped.feed(bytes(100))
    read.feed(bytes(99))
    async with asyncio.timeout(BOUND):
        await room.wait()
    read.push_back(b"1")
    waiting = asyncio.ensure_future(room.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
