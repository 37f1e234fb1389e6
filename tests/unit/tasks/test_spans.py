"""Which calls are traced, and what is a part of what."""

from __future__ import annotations

import asyncio

import pytest

from crib.tasks.keeper import TaskKeeper, at_stage
from crib.tasks.spans import (
    MILLION,
    OpenSpan,
    Span,
    TraceParent,
    Tracer,
    close_stage,
    enter_span,
    open_stage,
    parse_parent,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PARENT, TraceParent(TRACE, 0xF067AA0BA902B7, True)),
        (PARENT.replace("-01", "-00"), TraceParent(TRACE, 0xF067AA0BA902B7, False)),
        (PARENT.replace("-01", "-03"), TraceParent(TRACE, 0xF067AA0BA902B7, True)),
        (f"cc{PARENT[2:]}-later", TraceParent(TRACE, 0xF067AA0BA902B7, True)),
        (f"ff{PARENT[2:]}", None),
        (PARENT.replace(TRACE, 32 * "0"), None),
        (PARENT.replace("00f067aa0ba902b7", 16 * "0"), None),
        (PARENT.upper(), None),
        (f"{PARENT}x", None),
        ("", None),
        ("a forged] line", None),
    ],
)
def test_a_trace_parent_is_read_as_the_standard_says(text: str, expected: TraceParent | None) -> None:
    assert parse_parent(text) == expected


def test_a_caller_decides_for_its_own_trace() -> None:
    always, never = Tracer(print, MILLION), Tracer(print, 0)
    sampled = parse_parent(PARENT)
    assert sampled is not None
    span = never.begin("a", sampled)
    assert span is not None
    assert (span.trace, span.parent) == (TRACE, sampled.span)
    assert always.begin("a", TraceParent(TRACE, 1, False)) is None


def test_the_rate_is_for_calls_without_a_trace() -> None:
    assert Tracer(print, 0).begin("a", None) is None
    first, second = (Tracer(print, MILLION).begin("a", None) for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.parent, len(first.trace)) == (0, 32)
    assert first.trace != second.trace
    found = [Tracer(print, MILLION // 2).begin("a", None) for _ in range(2000)]
    assert 600 < sum(one is not None for one in found) < 1400, "a chance of less than 1e-60 to fail"


async def test_stages_of_the_work_that_a_call_began_are_parts_of_it() -> None:
    ended: list[Span] = []
    keeper = TaskKeeper()

    async def work() -> None:
        with at_stage("outer", "thing"):
            with at_stage("inner"):
                pass
            with pytest.raises(ValueError, match="bad"), at_stage("failing"):
                raise ValueError("bad")

    span = OpenSpan(ended.append, "call", TRACE, 7, is_call=True)
    enter_span(span)
    await keeper.begin("work", work(), "id").wait()
    span.end()
    inner, failing, outer, call = ended
    assert [one.name for one in ended] == ["inner", "failing", "outer", "call"]
    assert (call.parent, outer.parent, inner.parent, failing.parent) == (7, call.id, outer.id, outer.id)
    assert {one.trace for one in ended} == {TRACE}
    assert (failing.problem, outer.problem) == ("bad", "")
    assert outer.attributes == {"crib.subject": "thing"}
    assert call.began <= outer.began <= inner.began <= inner.ended <= outer.ended <= call.ended


async def test_a_service_that_a_call_began_is_no_part_of_it() -> None:
    ended: list[Span] = []
    keeper = TaskKeeper()

    async def for_ever() -> None:
        with at_stage("waiting"):
            pass

    enter_span(OpenSpan(ended.append, "call", TRACE, 0))
    await asyncio.wait([keeper.serve("service", for_ever(), "id")])
    assert ended == []
    here = open_stage("here", "")
    assert here is not None
    close_stage(here, None)
    assert [one.name for one in ended] == ["here"]


def test_what_nobody_traces_makes_no_spans() -> None:
    assert open_stage("stage", "") is None
