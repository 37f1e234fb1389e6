"""What is done next for a pod that is kept up, on a clock of the test's own."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.supervisor.backoff import BackOff, Pauses
from crib.supervisor.decide import Unhealthy
from tests.unit.supervisor.pod_world import EPOCH, PodWorld, plan_of

ONE = "containers: [{name: app, image: i}]"


def world(spec: str = ONE) -> PodWorld:
    return PodWorld(plan_of(spec))


def times(made: PodWorld, name: str) -> list[float]:
    return [at for at, started in made.starts if started == name]


def test_pauses_double_to_five_minutes() -> None:
    pod = world()
    pod.settle()
    for _ in range(8):
        pod.exits("app", 1)
        while not pod.running():
            decision = pod.settle()
            if decision.wake is not None:
                pod.now = decision.wake
    assert [after - before for before, after in pairwise(times(pod, "app"))] == [
        *(0, 10, 20, 40, 80, 160, 300, 300)
    ]


def test_a_long_run_makes_the_pauses_short_again() -> None:
    pod = world()
    pod.settle()
    for _ in range(3):
        pod.exits("app", 1)
        pod.pass_time(40)
    pod.now += 600
    pod.exits("app", 1)
    before = pod.now - EPOCH
    pod.settle()
    assert times(pod, "app")[-1] == before
    pod.exits("app", 1)
    assert pod.settle().waits == {"app": pod.now + 10}


@given(st.lists(st.floats(0, 2000, allow_nan=False), max_size=30))
def test_no_pause_is_longer_than_most_and_none_shrinks_but_by_a_long_run(runs: list[float]) -> None:
    pauses, backoff = Pauses(), BackOff()
    for ran in runs:
        before = backoff.pause
        backoff = backoff.after(ran, pauses).next(pauses)
        assert pauses.first <= backoff.pause <= pauses.most
        assert backoff.pause >= before or ran >= pauses.forgotten_after


@pytest.mark.parametrize(
    ("policy", "code", "phase", "starts"),
    [
        ("Always", 0, "Running", 2),
        ("Always", 1, "Running", 2),
        ("OnFailure", 0, "Succeeded", 1),
        ("OnFailure", 1, "Running", 2),
        ("Never", 0, "Succeeded", 1),
        ("Never", 3, "Failed", 1),
    ],
)
def test_who_is_started_again(policy: str, code: int, phase: str, starts: int) -> None:
    pod = world(f"{ONE}\nrestartPolicy: {policy}")
    pod.settle()
    pod.exits("app", code)
    assert pod.settle().phase == phase
    assert len(pod.starts) == starts


def test_init_containers_run_one_after_the_other_and_gate_the_rest() -> None:
    pod = world("""
        initContainers:
        - {name: first, image: i}
        - {name: proxy, image: i, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}}
        - {name: second, image: i}
        containers: [{name: app, image: i}, {name: other, image: i}]
    """)
    pod.settle()
    assert pod.running() == ["first"]
    pod.exits("first", 1)
    pod.settle()
    assert pod.running() == ["first"]
    pod.exits("first", 0)
    pod.settle()
    assert pod.running() == ["proxy"]
    pod.memory.started.add(pod.seen.attempts["proxy"][-1].id)
    pod.settle()
    assert sorted(pod.running()) == ["proxy", "second"]
    pod.exits("second", 0)
    pod.settle()
    assert sorted(pod.running()) == ["app", "other", "proxy"]
    pod.exits("proxy", 0)
    pod.settle()
    assert "proxy" in pod.running()
    assert len(times(pod, "first")) == 2


def test_an_init_container_that_may_not_be_repeated_ends_the_pod() -> None:
    pod = world(f"initContainers: [{{name: first, image: i}}]\n{ONE}\nrestartPolicy: Never")
    pod.settle()
    pod.exits("first", 4)
    decision = pod.settle()
    assert (decision.phase, decision.message) == ("Failed", "init container first exited with 4")
    pod.lose()
    assert pod.settle().phase == "Failed"


def test_an_unhealthy_container_is_stopped_and_started_again_unless_never() -> None:
    for policy, phase in (("Always", "Running"), ("OnFailure", "Running"), ("Never", "Failed")):
        pod = world(f"{ONE}\nrestartPolicy: {policy}")
        pod.settle()
        first = pod.seen.attempts["app"][-1].id
        pod.memory.unhealthy[first] = Unhealthy("liveness probe failed: no")
        assert pod.settle().phase == phase
        assert pod.kills == ["app: liveness probe failed: no"]
        assert pod.running() == (["app"] if phase == "Running" else [])


def test_only_the_last_two_attempts_stay() -> None:
    pod = world()
    for _ in range(5):
        pod.pass_time(400)
        pod.exits("app", 1)
    pod.pass_time(400)
    assert [attempt.number for attempt in pod.seen.attempts["app"]] == [4, 5]


def test_a_lost_sandbox_is_made_again_with_all_that_ran_in_it() -> None:
    pod = world(f"initContainers: [{{name: first, image: i}}]\n{ONE}")
    pod.settle()
    pod.exits("first", 0)
    pod.settle()
    pod.reboot()
    pod.settle()
    assert pod.running() == ["first"]
    pod.exits("first", 0)
    pod.settle()
    assert pod.running() == ["app"]
    assert pod.seen.sandbox is not None
    assert pod.seen.sandbox.attempt == 1
    assert pod.seen.attempts["app"][-1].number == 1
    assert pod.seen.others == ()


def test_what_succeeded_before_a_reboot_is_not_done_again() -> None:
    pod = world("restartPolicy: OnFailure\ncontainers: [{name: app, image: i}, {name: job, image: i}]")
    pod.settle()
    pod.exits("job", 0)
    pod.reboot()
    pod.settle()
    assert pod.running() == ["app"]
    pod.exits("app", 0)
    assert pod.settle().phase == "Succeeded"


def test_a_pod_that_has_ended_stays_so_after_a_reboot() -> None:
    pod = world(f"{ONE}\nrestartPolicy: OnFailure")
    pod.settle()
    pod.exits("app", 0)
    pod.reboot()
    assert pod.settle().phase == "Succeeded"
    assert len(pod.starts) == 1


def test_a_pod_that_is_never_restarted_has_failed_after_a_reboot() -> None:
    pod = world(f"{ONE}\nrestartPolicy: Never")
    pod.settle()
    pod.reboot()
    assert pod.settle().phase == "Failed"


def test_a_pod_that_is_asked_for_again_is_run_anew_whatever_it_was() -> None:
    for policy in ("Never", "Always"):
        pod = world(f"{ONE}\nrestartPolicy: {policy}")
        pod.settle()
        pod.now += 5
        pod.forget()
        pod.memory.since = pod.now
        pod.settle()
        assert pod.running() == ["app"]
        assert len(pod.starts) == 2


def test_a_clock_that_was_set_back_replaces_no_pod_twice_and_stretches_no_pause() -> None:
    pod = world()
    pod.now -= 3600
    pod.settle()
    assert len(pod.starts) == 1
    pod.now += 3600
    pod.exits("app", 1)
    pod.settle()
    pod.exits("app", 1)
    pod.now -= 3600
    pod.settle()
    assert len(pod.starts) == 3


def test_a_deadline_ends_the_pod() -> None:
    pod = world(f"{ONE}\nactiveDeadlineSeconds: 60")
    assert pod.settle().wake == EPOCH + 60
    decision = pod.pass_time(60)
    assert (decision.phase, decision.message) == ("Failed", "DeadlineExceeded: it was active for 60 s")


def test_a_sandbox_that_cannot_be_made_is_tried_again_after_its_pause() -> None:
    pod = world()
    pod.memory.failed("", pod.now, "no network")
    pod.memory.starts("")
    assert pod.settle().wake == EPOCH + 10
    assert pod.pass_time(10).phase == "Running"


events = st.lists(
    st.one_of(
        st.tuples(st.just("exits"), st.sampled_from(["first", "proxy", "app", "other"]), st.integers(0, 2)),
        st.tuples(st.sampled_from(["reboot", "forget", "lose"]), st.just(""), st.just(0)),
        st.tuples(st.just("time"), st.just(""), st.integers(0, 400)),
    ),
    max_size=20,
)


@given(events, st.sampled_from(["Always", "OnFailure", "Never"]))
def test_whatever_happens_there_is_one_container_of_a_name_and_inits_come_first(
    happened: list[tuple[str, str, int]], policy: str
) -> None:
    pod = world(f"""
        restartPolicy: {policy}
        initContainers:
        - {{name: first, image: i}}
        - {{name: proxy, image: i, restartPolicy: Always}}
        containers: [{{name: app, image: i}}, {{name: other, image: i}}]
    """)
    for kind, name, number in happened:
        decision = pod.settle()
        if decision.is_final:
            assert not {"app", "other"} & set(pod.running()) or pod.plan.behaviour.deadline
        for found in pod.seen.attempts.values():
            assert sum(attempt.state == "running" for attempt in found) <= 1
            assert len(found) <= 2 or not pod.running()
        if set(pod.running()) & {"app", "other"}:
            assert pod.seen.attempts["first"][-1].succeeded
        if kind == "exits" and name in pod.seen.attempts:
            pod.exits(name, number)
        elif kind == "time":
            pod.pass_time(number)
        elif kind in ("reboot", "lose", "forget") and pod.seen.sandbox is not None:
            getattr(pod, kind)()
    final = pod.pass_time(1000)
    if policy == "Always":
        assert final.phase in ("Running", "Pending")
