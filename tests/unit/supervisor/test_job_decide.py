"""What a Job does next, on a clock that only tests move."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from msgspec import structs

from crib.manifest.job_policies import FailureAction, JobPolicy, SuccessRule
from crib.manifest.plan import JobPlan, JobTurn, PodPlan
from crib.supervisor.backoff import Pauses
from crib.supervisor.job_decide import MAX_TRIES, JobNow, JobStep, JobTry, decide_job

EPOCH = 1_000_000.0


def _no_pod(turn: JobTurn) -> PodPlan:
    raise AssertionError(turn)


def job(**fields: int | JobPolicy | None) -> JobPlan:
    plan = JobPlan("pi", "default", "u1", 1, 1, _no_pod)
    return replace(plan, **fields)  # type: ignore[arg-type]  # each as it is there


@dataclass
class JobWorld:
    """A Job's pods that begin and end when a test says so."""

    plan: JobPlan
    now: float = EPOCH
    tries: list[JobTry] = field(default_factory=list)
    restarts: dict[JobTurn, int] = field(default_factory=dict)

    def settle(self) -> JobStep:
        for _ in range(100):
            step = self.look()
            if not step.starts:
                return step
            self.tries += [JobTry(turn.run, turn.attempt, self.now) for turn in step.starts]
        raise AssertionError(f"it never settles: {step}")

    def look(self) -> JobStep:
        return decide_job(self.plan, self.tries, JobNow(self.now, EPOCH, self.restarts, Pauses()))

    def ends(self, run: int, *, well: bool = True, verdict: FailureAction = "Count") -> JobStep:
        """The active try of a run ends."""
        self.now += 1
        place = next(i for i, one in enumerate(self.tries) if one.run == run and not one.ended)
        why = "as it says" if verdict == "FailJob" else ""
        self.tries[place] = structs.replace(
            self.tries[place], ended=self.now, succeeded=well, verdict=verdict, why=why
        )
        return self.settle()

    @property
    def active(self) -> list[tuple[int, int]]:
        return [(one.run, one.attempt) for one in self.tries if not one.ended]


def test_no_more_run_at_a_time_than_it_says_and_the_next_begins_when_one_has_ended() -> None:
    world = JobWorld(job(completions=5, parallelism=2))
    assert world.settle().phase == "Running"
    assert world.active == [(0, 0), (1, 0)]
    assert world.ends(1).message == "1 of 5 succeeded"
    assert world.active == [(0, 0), (2, 0)]
    for run in (0, 2, 3):
        assert world.ends(run).phase == "Running"
    assert world.active == [(4, 0)]
    assert world.ends(4) == JobStep("Succeeded", message="5 of 5 succeeded")


def test_a_run_that_failed_is_tried_again_after_pauses_that_double_until_one_succeeds() -> None:
    world = JobWorld(job(completions=2, parallelism=1))
    world.settle()
    pauses = []
    for _ in range(4):
        step = world.ends(0, well=False)
        assert (step.starts, world.active) == ((), [])
        assert step.wake is not None
        pauses.append(step.wake - world.now)
        world.now = step.wake
        world.settle()
    assert pauses == [10, 20, 40, 80]
    assert world.active == [(0, 4)]
    world.ends(0)
    assert world.active == [(1, 0)]
    step = world.ends(1, well=False)
    assert step.wake == world.now + 10, "a success begins the pauses anew"


def test_a_pause_ends_after_ten_minutes_and_also_when_the_clock_was_set_back() -> None:
    world = JobWorld(job(backoff_limit=100))
    world.tries = [JobTry(0, number, EPOCH, EPOCH + number + 1) for number in range(20)]
    world.now = EPOCH + 30
    assert world.look().wake == EPOCH + 20 + 600
    world.now = EPOCH - 5_000
    assert world.look().starts == (JobTurn(0, 20),)


def test_it_fails_when_more_tries_have_failed_than_it_allows() -> None:
    world = JobWorld(job(completions=3, parallelism=3, backoff_limit=1))
    world.settle()
    assert world.ends(0, well=False).phase == "Running"
    assert world.ends(1, well=False) == JobStep(
        "Failed", message="BackoffLimitExceeded: tries that failed: 2"
    )


@pytest.mark.parametrize(
    ("limit", "restarts", "phase"), [(3, 2, "Running"), (3, 3, "Failed"), (0, 1, "Failed")]
)
def test_restarts_in_place_count_as_failures(limit: int, restarts: int, phase: str) -> None:
    world = JobWorld(job(completions=2, parallelism=2, backoff_limit=limit))
    world.settle()
    world.restarts = {JobTurn(0): restarts - 1, JobTurn(1): 1}
    assert world.settle().phase == phase


def test_it_fails_when_its_time_is_over_unless_it_is_done_by_then() -> None:
    world = JobWorld(job(deadline=60))
    assert world.settle().wake == EPOCH + 60
    world.now = EPOCH + 60
    assert world.settle() == JobStep("Failed", message="DeadlineExceeded: it was active for 60 s")
    world.now = EPOCH
    world.ends(0)
    world.now = EPOCH + 100
    assert world.settle().phase == "Succeeded"


def test_without_completions_one_success_is_enough_and_the_others_come_to_their_end() -> None:
    world = JobWorld(job(completions=None, parallelism=3))
    world.settle()
    assert world.active == [(0, 0), (1, 0), (2, 0)]
    assert world.ends(1).phase == "Running"
    assert world.ends(0, well=False).starts == ()
    assert world.active == [(2, 0)]
    assert world.ends(2).phase == "Succeeded"


def per_run(limit: int, most: int | None = None) -> JobPolicy:
    return JobPolicy(limit_per_run=limit, max_failed=most)


def test_a_failure_that_ends_the_job_ends_it_even_if_all_else_has_succeeded() -> None:
    world = JobWorld(job(completions=2, parallelism=2))
    world.settle()
    world.ends(0)
    step = world.ends(1, well=False, verdict="FailJob")
    assert step == JobStep("Failed", message="PodFailurePolicy: as it says")


def test_what_is_ignored_is_tried_again_after_its_pause_and_counts_for_nothing() -> None:
    world = JobWorld(job(backoff_limit=0))
    world.settle()
    for _ in range(5):
        step = world.ends(0, well=False, verdict="Ignore")
        assert step.phase == "Running"
        assert step.wake is not None
        world.now = step.wake
        world.settle()
    assert world.active == [(0, 5)]
    assert world.ends(0).message == "1 of 1 succeeded, 5 ignored"


def test_a_run_with_a_limit_of_its_own_is_given_up_and_the_others_go_on() -> None:
    world = JobWorld(job(completions=3, parallelism=1, backoff_limit=1000, policy=per_run(1)))
    world.settle()
    assert world.ends(0, well=False).wake is None, "the next run does not wait for the pause of the first"
    assert world.active == [(1, 0)]
    world.now += 10
    assert world.ends(1).phase == "Running"
    assert world.active == [(0, 1)]
    world.ends(0, well=False)
    world.plan = replace(world.plan, parallelism=3)
    world.now += 10_000
    world.settle()
    assert world.active == [(2, 0)], "there is room and no pause, and nobody tries it again"
    step = world.ends(2)
    assert step == JobStep("Failed", message="FailedIndexes: 0")


def test_a_run_may_be_given_up_at_once_and_the_job_after_too_many_of_them() -> None:
    world = JobWorld(job(completions=6, parallelism=2, backoff_limit=1000, policy=per_run(9, most=2)))
    world.settle()
    world.ends(0, well=False, verdict="FailIndex")
    assert world.active == [(1, 0), (2, 0)]
    world.ends(1, well=False, verdict="FailIndex")
    step = world.ends(2, well=False, verdict="FailIndex")
    assert step == JobStep("Failed", message="MaxFailedIndexesExceeded: indexes that failed: 0-2")


def test_a_policy_says_when_enough_has_succeeded_though_others_run_and_have_failed() -> None:
    rule = SuccessRule(frozenset({1, 2}), None)
    world = JobWorld(job(completions=4, parallelism=4, policy=JobPolicy(successes=(rule,))))
    world.settle()
    world.ends(0, well=False)
    assert world.ends(1).phase == "Running"
    assert world.ends(2) == JobStep("Succeeded", message="2 of 4 succeeded, 1 failed")
    assert world.active == [(3, 0), (0, 1)], "whoever carries this out stops them"


def test_a_limit_that_is_passed_comes_before_a_success_that_is_not_there_yet() -> None:
    rule = SuccessRule(None, 2)
    world = JobWorld(job(completions=4, parallelism=4, backoff_limit=0, policy=JobPolicy(successes=(rule,))))
    world.settle()
    world.ends(1)
    assert world.ends(2, well=False).message == "BackoffLimitExceeded: tries that failed: 1"


def test_no_job_is_tried_for_ever() -> None:
    world = JobWorld(job(backoff_limit=2**31 - 1))
    world.tries = [JobTry(0, n, EPOCH, EPOCH + 1, verdict="Ignore") for n in range(MAX_TRIES)]
    world.now = EPOCH + 5000
    assert world.look().message == f"TooManyTries: {MAX_TRIES}"
