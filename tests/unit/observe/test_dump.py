"""What a dump shows of tasks, threads, locks, descriptors and memory, and what it never shows."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from crib.engine.locks import Locks
from crib.observe import dump
from crib.tasks.groups import Beside

SECRET = "swordfish-in-a-variable"


async def wait_inside(event: asyncio.Event, password: str) -> None:
    await event.wait()
    assert password


async def test_tasks_are_shown_with_the_calls_down_to_what_they_wait_for() -> None:
    async def outer(event: asyncio.Event, password: str) -> None:
        await wait_inside(event, password)

    event = asyncio.Event()
    async with Beside() as beside:
        for number in range(7):
            beside.start(f"job {number}", outer(event, SECRET))
        await asyncio.sleep(0)
        lines = dump.section("tasks", dump.tasks(asyncio.get_running_loop())).lines
        event.set()
    at = lines.index("7: job 0, job 1, job 2, job 3, job 4 and 2 more")
    stack = lines[at + 1 : at + 5]
    assert [line.strip().partition(" ")[0] for line in stack[:3]] == ["outer", "wait_inside", "wait"]
    assert "(observe/test_dump.py:" in stack[1]
    assert stack[3].strip() == "waits for a Future"
    assert SECRET not in "\n".join(lines)


async def test_a_task_that_waits_for_another_names_it() -> None:
    event = asyncio.Event()

    async def wait_for(task: asyncio.Task[None]) -> None:
        await task

    async with Beside() as beside:
        first = beside.start("the first", wait_inside(event, "x"))
        beside.start("the second", wait_for(first))
        await asyncio.sleep(0)
        lines = [line.strip() for line in dump.tasks(asyncio.get_running_loop())]
        event.set()
    assert lines[lines.index("1: the second") + 2] == "waits for the task the first"


def test_threads_are_shown_with_their_stacks_and_what_the_kernel_says() -> None:
    may_end, begun = threading.Event(), threading.Event()

    def hang_here(password: str) -> None:
        begun.set()
        may_end.wait(30)
        assert password

    thread = threading.Thread(target=hang_here, args=(SECRET,), name="the hung one", daemon=True)
    thread.start()
    try:
        assert begun.wait(30)
        lines = list(dump.threads())
    finally:
        may_end.set()
        thread.join()
    at = next(number for number, line in enumerate(lines) if line.startswith("the hung one ("))
    assert lines[at].partition("): ")[2].split()[0] in ("S", "R", "D")
    assert any(line.strip().startswith("hang_here (observe/test_dump.py:") for line in lines[at : at + 8])
    assert SECRET not in "\n".join(lines)


async def test_a_lock_is_shown_with_its_holder_and_how_many_wait() -> None:
    locks, may_end = Locks(), asyncio.Event()

    async def hold() -> None:
        async with locks.of("pod1"):
            await may_end.wait()

    async with Beside() as beside:
        for name in ("holder", "second", "third"):
            beside.start(name, hold())
        await asyncio.sleep(0)
        (held,) = locks.held()
        assert (held.key, held.holder, held.waiters) == ("pod1", "holder", 2)
        may_end.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert list(locks.held()) == []


def test_descriptors_are_counted_by_kind_and_files_by_their_directory(tmp_path: object) -> None:
    files = [os.open("/proc/self/status", os.O_RDONLY) for _ in range(3)]
    pipe = os.pipe()
    try:
        lines = list(dump.descriptors())
    finally:
        for file in (*files, *pipe):
            os.close(file)
    assert lines[0].endswith(" open")
    kinds = {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in lines[1:]}
    assert kinds[f"/proc/{os.getpid()}"] >= 3
    assert kinds["pipe"] >= 2


def test_memory_is_told_by_type_and_without_contents() -> None:
    class Kept:
        def __init__(self) -> None:
            self.secret = SECRET

    kept = [Kept() for _ in range(1000)]
    text = "\n".join(dump.memory())
    assert "VmRSS:" in text
    assert "builtins.dict" in text
    assert SECRET not in text
    assert kept


def test_looking_at_memory_disturbs_nobody_who_makes_a_tuple() -> None:
    """A tuple that is being made must be known to nobody else, or it cannot grow."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(1) as threads:
            looking = threads.submit(lambda: [list(dump.memory()) for _ in range(3)])
            while not looking.done():
                assert len(tuple(number for number in range(100))) == 100
            assert all(looking.result())
    finally:
        sys.setswitchinterval(interval)


def test_a_section_is_bounded_and_a_failure_is_told_in_it() -> None:
    many = dump.section("many", (str(number) for number in range(1000)))
    assert (len(many.lines), many.left_out) == (dump.LINES_LIMIT, 600)
    assert len(dump.section("long", ["x" * 100_000]).lines[0]) <= dump.LENGTH_LIMIT + 2

    def fails() -> Iterator[str]:
        yield "first"
        raise RuntimeError("the set changed size")

    assert dump.section("bad", fails()).lines == (
        "first",
        "cannot be told: RuntimeError: the set changed size",
    )
    assert dump.as_text([many]).count("\n") == dump.LINES_LIMIT + 3
