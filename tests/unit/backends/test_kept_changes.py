"""Reports of a kept pod become events: restarts with their causes and pauses, and what probes found."""

from __future__ import annotations

import pytest

from crib.backends.keeping.changes import changes
from crib.wire.kept import ContainerReport, PodReport

SECOND = 1_000_000_000
NOW = 1000 * SECOND
RUNS = ContainerReport("app", "c1", "Running", restarts=1)
ENDED = ContainerReport("app", "c1", "Exited (3)", restarts=1, exit_code=3)
WAITS = ContainerReport("app", "c1", "CrashLoopBackOff", restarts=1, exit_code=3, until=NOW + 40 * SECOND)
SICK = ContainerReport("app", "c1", "Exited (137)", "liveness probe failed", restarts=1, exit_code=137)
AGAIN = ContainerReport("app", "c2", "Running", restarts=2)
DEAF = "liveness probe failed: it says nothing"
ILL = ContainerReport("app", "c1", "Running", DEAF, restarts=1, probe=DEAF)
LATE = ContainerReport("app", "c1", "Running", restarts=1, probe="readiness probe failed: 503")
READY = ContainerReport("app", "c1", "Running", ready=True, restarts=1)


def told(before: ContainerReport, after: ContainerReport, sandbox: str = "s1") -> list[tuple[str, str]]:
    earlier = PodReport("u", "Running", "", "s1", 0, (before,))
    later = PodReport("u", "Running", "", sandbox, 0, (after,))
    return [(event.action, event.text) for event in changes(earlier, later, NOW)]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (RUNS, RUNS, []),
        (RUNS, ENDED, []),
        (ENDED, AGAIN, [("restarted", "exit code 3; restart 2, by crib's supervisor")]),
        (WAITS, AGAIN, [("restarted", "exit code 3; restart 2, by crib's supervisor")]),
        (SICK, AGAIN, [("restarted", "liveness probe failed; restart 2, by crib's supervisor")]),
        (RUNS, AGAIN, [("restarted", "it ended; restart 2, by crib's supervisor")]),
        (RUNS, WAITS, [("backing off", "exit code 3; again in 40 s (restart 2, by crib's supervisor)")]),
        (WAITS, WAITS, []),
        (AGAIN, RUNS, []),
        (READY, ILL, [("unhealthy", DEAF)]),
        (ILL, ILL, []),
        (ILL, AGAIN, [("restarted", f"{DEAF}; restart 2, by crib's supervisor")]),
        (RUNS, LATE, [("unhealthy", "readiness probe failed: 503")]),
        (LATE, LATE, []),
        (LATE, READY, [("healthy", "its readiness probe succeeds again")]),
        (LATE, RUNS, []),
        (RUNS, READY, []),
        (LATE, AGAIN, [("restarted", "it ended; restart 2, by crib's supervisor")]),
    ],
)
def test_a_restart_a_pause_and_a_failed_probe_are_told_once(
    before: ContainerReport, after: ContainerReport, said: list[tuple[str, str]]
) -> None:
    assert told(before, after) == said


def test_another_container_in_which_a_probe_finds_the_same_is_told_too() -> None:
    next_one = ContainerReport("app", "c2", "Running", restarts=2, probe=LATE.probe)
    assert ("unhealthy", LATE.probe) in told(LATE, next_one)


def test_what_is_restarted_with_its_pod_is_told_so() -> None:
    assert told(RUNS, AGAIN, "s2") == [
        ("restarted", "its pod was made again; restart 2, by crib's supervisor")
    ]


def test_an_event_leads_to_its_container_and_pod() -> None:
    before, after = (PodReport("u", "Running", "", "s1", 0, (one,)) for one in (ENDED, AGAIN))
    (event,) = changes(before, after, NOW)
    assert (event.subject, event.pod_id, event.name, event.at) == ("c2", "s1", "app", NOW)


def test_a_container_that_was_not_there_before_is_no_restart() -> None:
    assert (
        list(changes(PodReport("u", "Starting"), PodReport("u", "Running", containers=(AGAIN,)), NOW)) == []
    )


def test_the_first_report_tells_of_each_restart_that_may_not_have_been_told() -> None:
    fresh = ContainerReport("other", "c9", "Running")
    events = list(changes(None, PodReport("u", "Running", "", "s1", 0, (AGAIN, fresh, WAITS)), NOW))
    assert [(event.subject, event.action, event.text) for event in events] == [
        ("c2", "restarted", "it ended; restart 2, by crib's supervisor"),
        ("c1", "restarted", "it ended; restart 1, by crib's supervisor"),
    ]
