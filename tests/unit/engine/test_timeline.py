"""The stages of a pod: kept with their outcome, bounded, in the journal, and told of when they last long."""

from __future__ import annotations

import logging
import time
from functools import partial

import pytest

from crib.engine import timelines as timelines_module
from crib.engine.notices import Notices
from crib.engine.timeline import (
    CUT_OFF,
    FIRST_STAGES,
    OUTCOME_LIMIT,
    STAGE_LIMIT,
    SandboxTimeline,
    program_ended,
)
from crib.engine.timelines import IN_MEMORY, Timelines
from crib.model.errors import Broken
from crib.model.events import Stage
from crib.model.ids import SandboxId
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal


def pod(number: int) -> SandboxId:
    return SandboxId(f"pod-{number}")


class Daemons:
    """One daemon after the other, over the same journal."""

    def __init__(self) -> None:
        self.clock = ManualClock(100)
        self.journal = MemoryJournal(self.clock)
        self.there: set[str] = set()

    def next(self) -> Timelines:
        self.notices = Notices(self.clock)
        new = partial(SandboxTimeline, self.clock)
        return Timelines(self.journal, self.notices, new, lambda key: f"default/{key}" * (key in self.there))


@pytest.fixture
def daemons() -> Daemons:
    return Daemons()


@pytest.fixture
def timelines(daemons: Daemons) -> Timelines:
    return daemons.next()


def stages(timelines: Timelines, number: int = 1) -> tuple[Stage, ...]:
    return timelines.get(pod(number)).stages


def test_a_stage_is_kept_with_its_beginning_length_and_outcome(
    timelines: Timelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter((5, 12))
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(ticks))
    with timelines.of(pod(1))("create", "app"):
        pass
    (stage,) = stages(timelines)
    assert (stage.name, stage.subject, stage.started_at, stage.outcome) == ("create", "app", 102, "ok")
    assert stage.duration == 7


def test_a_stage_that_fails_says_why_and_the_error_goes_on(timelines: Timelines) -> None:
    with pytest.raises(Broken), timelines.of(pod(1))("attach", ""):
        raise Broken("no address")
    with pytest.raises(ValueError), timelines.of(pod(1))("attach", ""):
        raise ValueError
    with pytest.raises(Broken), timelines.of(pod(1))("attach", ""):
        raise Broken("x" * 100_000)
    outcomes = [stage.outcome for stage in stages(timelines)]
    assert outcomes == ["no address", "ValueError", "x" * OUTCOME_LIMIT]


def test_stages_are_told_in_the_order_in_which_they_began_with_what_they_are_part_of(
    timelines: Timelines,
) -> None:
    stage = timelines.of(pod(1))
    with stage("outer"), stage("inner"), timelines.of(pod(2))("another's"):
        pass
    with stage("next"):
        pass
    told = [(item.name, item.parent) for item in stages(timelines)]
    assert told == [("outer", 0), ("inner", 1), ("next", 0)]
    assert [item.parent for item in stages(timelines, 2)] == [0]


def test_a_stage_under_way_is_told_with_its_age(
    timelines: Timelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = timelines.of(pod(1))
    with stage("long"):
        with stage("part"), stage("part of part"):
            pass
        now = time.monotonic_ns() + 5_000_000_000
        monkeypatch.setattr(time, "monotonic_ns", lambda: now)
        told = [(item.name, item.parent, item.outcome) for item in stages(timelines)]
        assert told == [("long", 0, "running"), ("part", 1, "ok"), ("part of part", 2, "ok")]
        assert stages(timelines)[0].duration >= 5_000_000_000
    assert stages(timelines)[0].outcome == "ok"


def test_a_stage_is_charged_with_the_programs_that_ran_in_it(timelines: Timelines) -> None:
    stage = timelines.of(pod(1))
    program_ended("/usr/bin/nobody", 1, 1)
    with stage("attach"):
        with stage("network", "bridge"):
            program_ended("/opt/cni/bin/bridge", 0.5, 0.125)
            program_ended("/opt/cni/bin/host-local", 0.25, 0.125)
        program_ended("/usr/bin/crun", 0.001, 0)
    told = [(one.name, one.program, one.program_time, one.program_cpu) for one in stages(timelines)]
    assert told == [("attach", "crun", 1_000_000, 0), ("network", "host-local", 750_000_000, 250_000_000)]


def test_of_a_container_that_restarts_for_ever_the_pods_start_and_the_latest_stages_are_kept(
    timelines: Timelines,
) -> None:
    for number in range(STAGE_LIMIT + 10):
        with timelines.of(pod(1))("create", str(number)):
            pass
    told = timelines.get(pod(1))
    assert (len(told.stages), told.dropped) == (STAGE_LIMIT, 10)
    subjects = [int(stage.subject) for stage in told.stages]
    assert subjects == [*range(FIRST_STAGES), *range(FIRST_STAGES + 10, STAGE_LIMIT + 10)]


def test_a_timeline_goes_on_after_a_restart_of_the_daemon(daemons: Daemons) -> None:
    first = daemons.next()
    stage = first.of(pod(1))
    stage.pod = "default/web"
    with stage("RunPodSandbox"), stage("network"):
        pass
    first.write()
    second = daemons.next()
    with second.of(pod(1))("StopPodSandbox"):
        pass
    told = second.get(pod(1))
    assert told.pod == "default/web"
    assert [(one.name, one.parent) for one in told.stages] == [
        ("RunPodSandbox", 0),
        ("network", 1),
        ("StopPodSandbox", 0),
    ]
    second.write()
    assert daemons.next().get(pod(1)) == told


def test_a_stage_that_was_under_way_when_the_daemon_was_killed_says_so(daemons: Daemons) -> None:
    first = daemons.next()
    with first.of(pod(1))("RunPodSandbox"):
        first.write()
    (stage,) = stages(daemons.next())
    assert (stage.name, stage.outcome) == ("RunPodSandbox", CUT_OFF)


def test_a_timeline_is_found_by_id_and_by_name_and_of_several_the_latest(daemons: Daemons) -> None:
    first = daemons.next()
    for number in (1, 2):
        stage = first.of(pod(number))
        stage.pod = "default/web"
        with stage("RunPodSandbox"):
            pass
    first.write()
    for timelines in (first, daemons.next()):
        for text, found in (("pod-1", pod(1)), ("pod-", pod(2)), ("default/web", pod(2)), ("web", pod(2))):
            sandbox = timelines.find(text)
            assert sandbox is not None
            assert sandbox.sandbox == found
        assert timelines.find("po") is timelines.find("default") is None


async def test_all_are_told_the_latest_first(daemons: Daemons) -> None:
    first = daemons.next()
    for number in range(3):
        with first.of(pod(number))("RunPodSandbox"):
            pass
    first.write()
    second = daemons.next()
    with second.of(pod(3))("RunPodSandbox"):
        pass
    assert [found.sandbox async for found in second.all()] == [pod(3), pod(2), pod(1), pod(0)]


def test_timelines_that_are_not_at_work_are_in_the_journal_only(timelines: Timelines) -> None:
    with timelines.of(pod(0))("RunPodSandbox"):
        for number in range(1, IN_MEMORY + 30):
            with timelines.of(pod(number))("RunPodSandbox"):
                pass
        timelines.write_all()
        assert len(timelines._known) == IN_MEMORY
        assert stages(timelines, 0)[0].outcome == "running"
        assert stages(timelines, 1)[0].outcome == "ok"


def test_a_stage_of_a_timeline_that_has_left_memory_meanwhile_is_kept(timelines: Timelines) -> None:
    held = timelines.of(pod(0))
    for number in range(IN_MEMORY + 1):
        with timelines.of(pod(number))("RunPodSandbox"):
            pass
    timelines.of(pod(1))
    timelines.write_all()
    assert pod(0) not in timelines._known
    with held("StopPodSandbox"):
        timelines.write_all()
    assert [stage.name for stage in stages(timelines, 0)] == ["RunPodSandbox", "StopPodSandbox"]


def test_of_pods_that_have_gone_the_latest_are_kept_and_all_of_those_that_are_there(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines_module, "KEPT_ENDED", 2)
    timelines = daemons.next()
    for number in range(6):
        with timelines.of(pod(number))("RunPodSandbox"):
            pass
    daemons.there = {pod(0), pod(2)}
    timelines.write()
    timelines.prune()
    labels = daemons.journal.shelf("timelines", object).labels()
    assert [label.subject for label in labels] == [pod(5), pod(4), pod(2), pod(0)]


def test_a_stage_that_takes_unusually_long_is_a_warning_until_it_ends(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timelines = daemons.next()
    stage = timelines.of(pod(1))
    stage.pod = "default/web"
    with stage("RunPodSandbox"), stage("network", "slow"):
        timelines._watch()
        assert not daemons.notices.warnings
        began = timelines.of(pod(1)).innermost()[0]._began
        monkeypatch.setattr(time, "monotonic_ns", lambda: began + 31_000_000_000)
        with caplog.at_level(logging.WARNING):
            timelines._watch()
            timelines._watch()
        (warning,) = daemons.notices.warnings
        assert (warning.subject, warning.text) == ("default/web: network slow", "under way for over 31 s")
        assert [record.message for record in caplog.records] == [f"{warning.subject}: {warning.text}"]
        assert daemons.notices.faults == ()
    timelines._watch()
    assert daemons.notices.warnings == ()
    assert [notice.text for notice in daemons.notices] == ["under way for over 31 s; that has ended"]


def test_a_pull_and_a_grace_may_take_longer(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    timelines = daemons.next()
    stage = timelines.of(pod(1))
    with stage("PullImage"), timelines.of(pod(2))("grace"):
        later = time.monotonic_ns() + 31_000_000_000
        monkeypatch.setattr(time, "monotonic_ns", lambda: later)
        timelines._watch()
        assert not daemons.notices.warnings


def test_stages_that_others_have_timed_are_parts_of_the_one_that_asks(timelines: Timelines) -> None:
    told = [Stage("qemu", "pod", 7, 2, "ok"), Stage("kernel", "pod", 8, 1, "ok", parent=1)]
    stage = timelines.of(pod(1))
    with stage("RunPodSandbox"), stage("sandbox"):
        stage.adopt(told)
    stage.adopt(told[:1])
    assert [(one.name, one.parent) for one in stages(timelines)] == [
        *(("RunPodSandbox", 0), ("sandbox", 1), ("qemu", 2), ("kernel", 3), ("qemu", 0)),
    ]
