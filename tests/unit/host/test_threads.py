"""Threads by class: bounded, visible, and never waited for beyond their limit."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import libc
from crib.host.threads import MAX_HANGING_OF_ONE, Job, Overdue, Threads

BOUND = 10.0


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Work that waits for this hangs until the test has ended."""
    event = threading.Event()
    yield event
    event.set()


async def hang(threads: Threads, hanging: threading.Event, *owners: str) -> None:
    """Let work of these owners become overdue."""
    for number, owner in enumerate(owners, 1):
        while len(threads.waiting()) < number:  # a slow machine may not begin it in that time
            with pytest.raises(Overdue):
                await threads.run(Job("reading /nfs", owner, 0.05), hanging.wait)


async def test_work_returns_raises_and_sees_its_callers_context() -> None:
    threads = Threads("test", 2)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("of the caller")
    assert await threads.run("asking", variable.get) == "of the caller"
    with pytest.raises(ZeroDivisionError):
        await threads.run("dividing", lambda: 1 // 0)
    assert not threads.waiting()


async def test_no_more_threads_than_allowed_run_at_once() -> None:
    threads, lock = Threads("test", 3, patience=BOUND), threading.Lock()
    now, most = 0, 0
    full = threading.Barrier(3)

    def work(number: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if number < 3:
            full.wait(BOUND)
        with lock:
            now -= 1

    await asyncio.gather(*(threads.run("counting", work, number) for number in range(30)))
    assert most == 3


async def test_overdue_work_is_left_to_itself_seen_and_told_of_when_it_ends(hanging: threading.Event) -> None:
    threads, late, stopped = Threads("test", 1), asyncio.Event(), threading.Event()
    job = Job("looking at /mnt", "pod1", 0.05, stop=stopped.set, late=late.set)
    with pytest.raises(Overdue, match=r"^looking at /mnt: takes more than 0.05 s"):
        await threads.run(job, hanging.wait)
    assert stopped.is_set()
    [wait] = threads.waiting()
    assert (wait.kind, wait.what, wait.owner, wait.overdue) == ("test", "looking at /mnt", "pod1", True)
    assert await threads.run("other work", lambda: "goes on") == "goes on"
    assert not late.is_set()
    hanging.set()
    async with asyncio.timeout(BOUND):
        await late.wait()
    assert not threads.waiting()
    assert await threads.run("other work", lambda: "goes on") == "goes on"


async def test_work_that_finds_no_thread_is_refused_and_never_begun(hanging: threading.Event) -> None:
    threads, begun = Threads("test", 1), threading.Event()
    first = asyncio.ensure_future(threads.run("hanging", hanging.wait))
    await asyncio.sleep(0)
    with pytest.raises(Overdue, match=r"no thread was free for 0.05 s: all 1 wait"):
        await threads.run(Job("waiting", limit=0.05), begun.set)
    hanging.set()
    assert await first
    await threads.run("flushing the queue", lambda: None)
    assert not begun.is_set()


async def test_an_owner_whose_work_hangs_is_refused_and_others_are_not(hanging: threading.Event) -> None:
    threads = Threads("test", 1)
    await hang(threads, hanging, *["pod1"] * MAX_HANGING_OF_ONE)
    with pytest.raises(Overdue, match=r"not tried, as 4 threads hang .* in reading /nfs"):
        await threads.run(Job("reading /nfs", "pod1"), hanging.wait)
    assert await threads.run(Job("reading", "pod2"), lambda: True)


async def test_threads_that_hang_have_a_bound(hanging: threading.Event) -> None:
    threads = Threads("test", 1, hanging=2)
    await hang(threads, hanging, "a", "b")
    with pytest.raises(Overdue, match="not tried, as 2 threads hang"):
        await threads.run(Job("reading", "c"), lambda: None)


async def test_a_cancelled_caller_waits_for_work_that_has_begun(hanging: threading.Event) -> None:
    threads, begun = Threads("test", 1), threading.Event()

    def work() -> None:
        begun.set()
        hanging.wait()

    task = asyncio.ensure_future(threads.run(Job("making", stop=hanging.set), work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert hanging.is_set()
    assert not threads.waiting()


async def test_a_cancelled_caller_waits_no_longer_than_the_limit(hanging: threading.Event) -> None:
    threads, begun = Threads("test", 1), threading.Event()

    def work() -> None:
        begun.set()
        hanging.wait()

    task = asyncio.ensure_future(threads.run(Job("making", limit=0.1), work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    async with asyncio.timeout(BOUND):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [wait.overdue for wait in threads.waiting()] == [True]


async def test_work_of_a_caller_that_has_gone_is_not_begun(hanging: threading.Event) -> None:
    threads, begun = Threads("test", 1), threading.Event()
    first = asyncio.ensure_future(threads.run("hanging", hanging.wait))
    second = asyncio.ensure_future(threads.run("waiting", begun.set))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    hanging.set()
    assert await first
    await threads.run("flushing the queue", lambda: None)
    assert not begun.is_set()


async def test_what_work_changes_of_its_thread_no_other_work_meets(tmp_path: Path) -> None:
    threads, here = Threads("test", 1, patience=BOUND), os.getcwd()

    def go_away() -> str:
        libc.unshare(libc.CLONE_FS)
        os.chdir(tmp_path)
        return os.getcwd()

    away, *others = await asyncio.gather(
        threads.run(Job("going away", spends_thread=True), go_away),
        *(threads.run("looking", os.getcwd) for _ in range(3)),
    )
    assert (away, set(others)) == (str(tmp_path), {here})


async def test_work_waits_for_no_thread_that_hangs_within_its_limit(hanging: threading.Event) -> None:
    threads = Threads("test", 2, patience=0.5)
    stuck = [asyncio.ensure_future(threads.run("reading /nfs", hanging.wait)) for _ in range(5)]
    await asyncio.sleep(0)
    async with asyncio.timeout(BOUND):
        assert await threads.run("reading", lambda: True)
    hanging.set()
    assert all(await asyncio.gather(*stuck))


async def test_where_the_system_gives_no_thread_the_caller_hears_so_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = Threads("test", 1)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Overdue, match="not tried, as the system gives us no more threads"):
            await threads.run("reading", lambda: None)
    assert await threads.run("reading", lambda: True)


async def test_what_is_under_way_and_what_comes_is_given_up_when_the_daemon_ends(
    hanging: threading.Event,
) -> None:
    threads = Threads("test", 1)
    stuck = asyncio.ensure_future(threads.run("reading /nfs", hanging.wait))
    await asyncio.sleep(0)
    threads.end_within(0.1)
    async with asyncio.timeout(BOUND):
        with pytest.raises(Overdue, match="given up, as the daemon ends"):
            await stuck
        with pytest.raises(Overdue, match="given up, as the daemon ends"):
            await threads.run("reading /nfs", hanging.wait)


async def test_a_caller_that_is_cancelled_twice_still_waits(hanging: threading.Event) -> None:
    threads, begun = Threads("test", 1), threading.Event()

    def work() -> None:
        begun.set()
        hanging.wait()

    task = asyncio.ensure_future(threads.run("making", work))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    hanging.set()
    with pytest.raises(asyncio.CancelledError):
        await task
