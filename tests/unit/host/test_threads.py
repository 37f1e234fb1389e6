"""Threads by class: bounded, visible, and never waited for beyond their limit."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

from crib.host.threads import MAX_OVERDUE_OF_ONE, Job, Overdue, Threads

BOUND = 10.0


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Work that waits for this hangs until the test has ended."""
    event = threading.Event()
    yield event
    event.set()


async def test_work_returns_raises_and_sees_its_callers_context() -> None:
    threads = Threads("test", 2)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("of the caller")
    assert await threads.run("asking", variable.get) == "of the caller"
    with pytest.raises(ZeroDivisionError):
        await threads.run("dividing", lambda: 1 // 0)
    assert not threads.waiting()


async def test_no_more_threads_than_allowed_run_at_once() -> None:
    threads, lock = Threads("test", 3), threading.Lock()
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
    for _ in range(MAX_OVERDUE_OF_ONE):
        with pytest.raises(Overdue, match="takes more than"):
            await threads.run(Job("reading /nfs", "pod1", 0.01), hanging.wait)
    with pytest.raises(Overdue, match=r"not tried, as 4 threads hang .* in reading /nfs"):
        await threads.run(Job("reading /nfs", "pod1"), hanging.wait)
    assert await threads.run(Job("reading", "pod2"), lambda: True)


async def test_threads_that_hang_have_a_bound(hanging: threading.Event) -> None:
    threads = Threads("test", 1, overdue=2)
    for owner in ("a", "b"):
        with pytest.raises(Overdue, match="takes more than"):
            await threads.run(Job("reading /nfs", owner, 0.01), hanging.wait)
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
