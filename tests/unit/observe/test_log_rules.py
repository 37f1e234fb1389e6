"""Which lines are written while rules are in force."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest

from crib.model.caller import CallObject, Peer
from crib.model.errors import Exhausted
from crib.model.log_rule import LogRule
from crib.model.settings import LogSettings
from crib.observe import logs
from crib.observe.log_rules import RULES, RULES_LIMIT
from crib.tasks.calls import CallUnderWay, enter
from crib.tasks.keeper import TaskKeeper
from tests.heard_logs import heard_logs

BOUND = 30.0
POD, BOX = "727ff948695e" + "0" * 52, "fb59ad2bf4ca" + "0" * 52
WEB = CallObject(pod="default/web", sandbox=POD, container=BOX, name="server")
log = logging.getLogger("crib.test")


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.set_up(LogSettings(), out)
    yield out
    RULES.reset()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def rule(level: str = "debug", seconds: float = 600, **fields: str) -> LogRule:
    return LogRule(level, **fields, ends_at=time.time_ns() + int(seconds * 1e9))


def in_call(call: CallUnderWay, text: str) -> None:
    def body() -> None:
        enter(call)
        log.debug(text)

    copy_context().run(body)


def told(out: io.StringIO) -> list[str]:
    """The messages of debug lines."""
    return [line.rpartition(": ")[2] for line in out.getvalue().splitlines() if " DEBUG " in line]


STOP = CallUnderWay(
    "1", "StopContainer", "grpc-go/1.78.0", object=WEB, peers=(Peer(812, 0, "/usr/bin/kubelet"),)
)


@pytest.mark.parametrize(
    ("fields", "is_heard"),
    [
        ({}, True),
        ({"pod": "default/web"}, True),
        ({"pod": "web"}, True),
        ({"pod": POD[:12]}, True),
        ({"pod": "7"}, False),
        ({"pod": "default/other"}, False),
        ({"container": "server"}, True),
        ({"container": BOX}, True),
        ({"pod": "web", "container": "page"}, False),
        ({"verb": "stopcontainer"}, True),
        ({"verb": "StartContainer"}, False),
        ({"caller": "grpc-go"}, True),
        ({"caller": "kubelet"}, True),
        ({"caller": "812"}, True),
        ({"caller": "crictl"}, False),
        ({"pod": "web", "verb": "StopContainer", "caller": "grpc-go"}, True),
        ({"pod": "web", "verb": "StopContainer", "caller": "crictl"}, False),
    ],
)
async def test_a_rule_is_for_lines_of_calls_that_fit_all_it_says(
    out: io.StringIO, fields: dict[str, Any], is_heard: bool
) -> None:
    RULES.follow(rule(**fields))
    in_call(STOP, "of the call")
    assert told(out) == (["of the call"] if is_heard else [])


async def test_other_lines_are_written_as_ever(out: io.StringIO) -> None:
    RULES.follow(rule(pod="web"))
    log.info("usual")
    log.debug("of nobody")
    in_call(CallUnderWay("2", "StopContainer"), "of another call")
    assert "usual" in out.getvalue()
    assert told(out) == []


async def test_work_for_an_object_and_lines_that_name_it_belong_to_it(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RULES, "describe", lambda text: WEB if text == BOX else CallObject())

    async def work(text: str) -> None:
        log.debug(text)

    RULES.follow(rule(pod="web"))
    RULES.follow(rule(pod=POD[:12]))
    keeper = TaskKeeper()
    await keeper.begin("clean-up", work("of its work"), BOX).wait()
    await keeper.begin("clean-up", work("of other work"), "1" * 64).wait()
    log.debug("%s has lost its namespace", POD)
    assert told(out) == ["of its work", f"{POD} has lost its namespace"]


async def test_the_latest_rule_for_everything_counts_and_may_ask_for_less(out: io.StringIO) -> None:
    RULES.follow(rule("debug"))
    RULES.follow(rule("error"))
    log.warning("unheard")
    log.error("heard")
    RULES.reset()
    log.info("as ever")
    log.debug("nothing")
    lines = [line.rpartition(": ")[2] for line in out.getvalue().splitlines() if " crib.test: " in line]
    assert lines == ["heard", "as ever"]


async def test_a_rule_ends_by_itself_and_the_log_says_so(out: io.StringIO) -> None:
    async with heard_logs("crib.observe.log_rules") as heard:
        RULES.follow(rule(seconds=0.05, pod="web"))
        assert [one.pod for one in RULES()] == ["web"]
        await heard("has ended")
    assert not RULES()
    in_call(STOP, "too late")
    assert told(out) == []
    assert not log.isEnabledFor(logging.DEBUG)
    assert "log: level debug of pod web has ended" in out.getvalue()


async def test_there_are_not_too_many_rules(out: io.StringIO) -> None:
    for _ in range(RULES_LIMIT):
        RULES.follow(rule(pod="web"))
    with pytest.raises(Exhausted, match="reset them first"):
        RULES.follow(rule(pod="web"))


def test_without_rules_a_line_below_the_level_is_not_made(out: io.StringIO) -> None:
    assert not log.isEnabledFor(logging.DEBUG)


def test_the_latest_lines_are_kept_and_cut(out: io.StringIO) -> None:
    for number in range(logs.LATEST + 5):
        log.info("line %d", number)
    log.info("x" * 10_000)
    latest = logs.FIGURES.latest
    assert len(latest) == logs.LATEST
    assert latest[-2].endswith(f"line {logs.LATEST + 4}")
    assert len(latest[-1]) == logs.LATEST_LENGTH
