"""Lines of the log, as text and JSON."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextvars import copy_context

import pytest

from crib.host.threads import OURS
from crib.model.settings import LogSettings
from crib.observe import logs
from crib.observe.log_rules import RULES
from crib.tasks.calls import CallUnderWay, enter
from crib.tasks.keeper import TaskKeeper

log = logging.getLogger("crib.test")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BOUND = 30.0


def in_call(work: Callable[[], None], call: CallUnderWay) -> None:
    def body() -> None:
        enter(call)
        work()

    copy_context().run(body)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    gc.collect()  # what earlier tests dropped may have a last word to log, which is not of these lines
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_text_line_has_time_level_logger_request_and_message() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(), out)
    in_call(lambda: log.info("made %s\nforged line", "it"), CallUnderWay("2a", "Version"))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z INFO    crib\.test \[2a\]: made it\\nforged line\n",
        out.getvalue(),
    )


def test_a_json_line_is_an_object() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(format="json"), out)

    def fail() -> None:
        try:
            raise ZeroDivisionError("oops")
        except ZeroDivisionError:
            log.exception("failed\n")

    in_call(fail, CallUnderWay("2a", "Version", trace=TRACE))
    content = json.loads(out.getvalue())
    assert (content["level"], content["request"], content["message"]) == ("error", "2a", "failed\n")
    assert content["trace"] == TRACE
    assert "ZeroDivisionError: oops" in content["traceback"]


def test_outside_of_calls_there_is_no_request() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(format="json"), out)
    log.info("x")
    assert not {"request", "trace"} & set(json.loads(out.getvalue()))


def test_a_text_line_shows_the_trace_beside_the_request() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(), out)
    in_call(lambda: log.info("x"), CallUnderWay("2a", "Version", trace=TRACE))
    assert f" crib.test [2a {TRACE}]: x\n" in out.getvalue()


async def test_lines_of_what_a_call_left_behind_have_its_id() -> None:
    """A verb of the keeper, a thread, a timer, and a task of that verb, all after the call has ended."""
    out, ended, timer = io.StringIO(), asyncio.Event(), asyncio.Event()
    logs.set_up(LogSettings(), out)
    keeper = TaskKeeper()

    def ring() -> None:
        log.info("from a timer")
        timer.set()

    async def part() -> None:
        log.info("from a part")

    async def verb() -> None:
        await ended.wait()
        log.info("from a verb")
        await keeper.part("part", part())
        await OURS.run("thread", log.info, "from a thread")
        asyncio.get_running_loop().call_soon(ring)
        await timer.wait()

    async def call() -> asyncio.Task[None]:
        enter(CallUnderWay("2a", "StopContainer"))
        return keeper.begin("verb", verb()).task

    left = await keeper.start("call", call())
    ended.set()
    async with asyncio.timeout(BOUND):
        await left
    told = [line.split(" crib.test ")[1] for line in out.getvalue().splitlines()]
    assert told == [f"[2a]: from a {name}" for name in ("verb", "part", "thread", "timer")]


def test_the_level_can_be_changed_and_libraries_stay_quiet() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(level="warning"), stream=out)
    log.info("unheard")
    RULES.set_usual("debug")
    log.debug("heard")
    logging.getLogger("asyncio").debug("library")
    assert out.getvalue().count("\n") == 1
    assert "heard" in out.getvalue()


def test_setting_up_again_replaces_what_was_there() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up(LogSettings(), stream=first)
    logs.set_up(LogSettings(format="json"), stream=second)
    log.info("x")
    assert not first.getvalue()
    assert second.getvalue().count("\n") == 1


def test_a_huge_message_is_cut() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(), stream=out)
    log.info("x" * 1_000_000)
    assert len(out.getvalue()) < 20_000
