"""A loop that does not turn is counted, and what holds it up is in the log."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from crib.observe import lag
from crib.observe.lag import TOO_LONG, LoopWatch

BOUND = 30.0


class Told(logging.Handler):
    """Sets an event when a line begins in a certain way."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.came = threading.Event()
        self._beginning = beginning

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if self.lines[-1].startswith(self._beginning):
            self.came.set()


def hold_up(until: threading.Event) -> None:
    """Blocks the loop until the watch has told of that."""
    assert until.wait(BOUND)


def test_what_blocks_the_loop_is_logged_with_its_stack_and_counted() -> None:
    watch, told = LoopWatch(), Told("the loop is blocked")

    async def work() -> None:
        watch.start()
        await asyncio.sleep(0.01)  # the loop rests before it is held up, and after
        hold_up(told.came)
        await asyncio.sleep(0.01)
        watch.stop()

    logging.getLogger(lag.__name__).addHandler(told)
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(watch.selector())) as runner:
            runner.run(work())
    finally:
        logging.getLogger(lag.__name__).removeHandler(told)
    blocked = next(line for line in told.lines if line.startswith("the loop is blocked"))
    assert " < hold_up (observe/test_lag.py:" in blocked
    assert "the loop continues: it was blocked for" in told.lines[-1]
    found = watch.lag
    assert found.stalls >= 1
    assert found.seconds >= found.longest >= TOO_LONG


def test_a_loop_that_turns_or_waits_is_not_blocked() -> None:
    watch = LoopWatch()

    async def work() -> None:
        watch.start()
        for _ in range(3):
            await asyncio.sleep(TOO_LONG / 2)  # the loop rests, which is what is watched
        watch.stop()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(watch.selector())) as runner:
        began = time.monotonic()
        runner.run(work())
        lasted = time.monotonic() - began
    # On a machine that is too busy the loop may indeed have been held up, for as long as it came too late.
    assert watch.lag.seconds <= max(0.0, lasted - 3 * TOO_LONG / 2)


def test_the_thread_sleeps_while_the_loop_waits_and_is_there_when_it_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch, asleep, told = LoopWatch(), threading.Event(), Told("the loop is blocked")
    sleep = watch._sleep_while_it_rests

    def sleep_and_tell(turns: int) -> None:
        asleep.set()
        sleep(turns)

    monkeypatch.setattr(watch, "_sleep_while_it_rests", sleep_and_tell)

    async def work() -> None:
        watch.start()
        loop = asyncio.get_running_loop()
        rested = loop.create_future()

        def wait() -> None:
            assert asleep.wait(BOUND)
            loop.call_soon_threadsafe(rested.set_result, None)

        threading.Thread(target=wait).start()
        await rested
        hold_up(told.came)
        watch.stop()

    logging.getLogger(lag.__name__).addHandler(told)
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(watch.selector())) as runner:
            runner.run(work())
    finally:
        logging.getLogger(lag.__name__).removeHandler(told)
