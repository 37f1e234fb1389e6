"""The stages of a pod's start: kept with their outcome, and bounded."""

from __future__ import annotations

import time

import pytest

from crib.engine.timeline import SANDBOX_LIMIT, STAGE_LIMIT, Timeline
from crib.model.errors import Broken
from crib.model.ids import SandboxId
from tests.fakes.clock import ManualClock


def pod(number: int) -> SandboxId:
    return SandboxId(f"pod{number}")


def test_a_stage_is_kept_with_its_beginning_length_and_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ticks = ManualClock(100), iter((5, 12))
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(ticks))
    timeline = Timeline(clock)
    with timeline.of(pod(1))("create", "app"):
        pass
    (stage,) = timeline.stages(pod(1))
    assert (stage.name, stage.subject, stage.started_at, stage.outcome) == ("create", "app", 101, "ok")
    assert stage.duration == 7


def test_a_stage_that_fails_says_why_and_the_error_goes_on() -> None:
    timeline = Timeline(ManualClock())
    with pytest.raises(Broken), timeline.of(pod(1))("attach", ""):
        raise Broken("no address")
    with pytest.raises(ValueError), timeline.of(pod(1))("attach", ""):
        raise ValueError
    with pytest.raises(Broken), timeline.of(pod(1))("attach", ""):
        raise Broken("x" * 100_000)
    assert [stage.outcome for stage in timeline.stages(pod(1))] == ["no address", "ValueError", "x" * 1000]


def test_stages_are_told_in_the_order_in_which_they_began_with_what_they_are_part_of() -> None:
    timeline = Timeline(ManualClock())
    stage = timeline.of(pod(1))
    with stage("outer"), stage("inner"), timeline.of(pod(2))("another's"):
        pass
    with stage("next"):
        pass
    told = [(item.name, item.parent) for item in timeline.stages(pod(1))]
    assert told == [("outer", 0), ("inner", 1), ("next", 0)]
    assert [item.parent for item in timeline.stages(pod(2))] == [0]


def test_a_stage_under_way_is_not_told_and_leaves_the_parents_right() -> None:
    timeline = Timeline(ManualClock())
    stage = timeline.of(pod(1))
    with stage("long"):
        with stage("part"), stage("part of part"):
            pass
        told = [(item.name, item.parent) for item in timeline.stages(pod(1))]
    assert told == [("part", 0), ("part of part", 1)]


def test_a_container_that_restarts_for_ever_does_not_fill_the_memory() -> None:
    timeline = Timeline(ManualClock())
    for _ in range(STAGE_LIMIT + 10):
        with timeline.of(pod(1))("create"):
            pass
    assert len(timeline.stages(pod(1))) == STAGE_LIMIT


def test_the_oldest_sandbox_is_forgotten_first() -> None:
    timeline = Timeline(ManualClock())
    for number in range(SANDBOX_LIMIT + 1):
        with timeline.of(pod(number))("run"):
            pass
    assert timeline.stages(pod(0)) == ()
    assert len(timeline.stages(pod(1))) == len(timeline.stages(pod(SANDBOX_LIMIT))) == 1
    assert len(timeline._sandboxes) == SANDBOX_LIMIT
