"""What is to be done next for a Job: a pure function of its plan and of the tries that there were.

The rules are a Job controller's (Kubernetes 1.36): as many pods at a time as `parallelism` says, a new try
for each that failed, after a pause that doubles with each failure in a row, until enough runs have succeeded
or too many tries have failed. Whoever restarts containers in place (OnFailure) counts these restarts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from crib.manifest.plan import JobTurn

if TYPE_CHECKING:
    from crib.manifest.plan import JobPlan
    from crib.supervisor.backoff import Pauses


class JobTry(msgspec.Struct, frozen=True):
    """One try: a pod of its own. Times are in seconds since the epoch; it is active while `ended` is 0."""

    run: int
    attempt: int
    started: float
    ended: float = 0.0
    succeeded: bool = False

    @property
    def turn(self) -> JobTurn:
        return JobTurn(self.run, self.attempt)

    @property
    def failed(self) -> bool:
        return bool(self.ended) and not self.succeeded


@dataclass(frozen=True, slots=True)
class JobNow:
    """The moment, when somebody last asked for the Job, and the restarts in each of its active pods."""

    time: float
    since: float
    restarts: Mapping[JobTurn, int]
    pauses: Pauses


@dataclass(frozen=True, slots=True)
class JobStep:
    """`starts` are begun now. In a final phase whatever is active is stopped, for the reason in `message`.

    Otherwise `wake` is when to look again; None: when something moves.
    """

    phase: Literal["Running", "Succeeded", "Failed"]
    starts: tuple[JobTurn, ...] = ()
    wake: float | None = None
    message: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the Job has ended for good."""
        return self.phase != "Running"


def decide_job(plan: JobPlan, tries: Sequence[JobTry], now: JobNow) -> JobStep:
    """The next step for a Job that somebody wants to run."""
    failed = [one for one in tries if one.failed]
    active = [one for one in tries if not one.ended]
    done = {one.run for one in tries if one.succeeded}
    if (problem := _problem(plan, len(failed), now)) and not _is_done(plan, done, active):
        return JobStep("Failed", message=problem)
    if _is_done(plan, done, active):
        return JobStep("Succeeded", message=progress(plan, tries))
    wakes = [] if plan.deadline is None else [now.since + plan.deadline]
    starts = _starts(plan, tries, done, active)
    pause = _pause_until(tries, now.pauses)
    if starts and now.time < pause <= now.time + now.pauses.job_most:
        wakes.append(pause)
        starts = ()
    return JobStep("Running", starts, min(wakes, default=None), progress(plan, tries))


def progress(plan: JobPlan, tries: Sequence[JobTry]) -> str:
    """How far it is, for people."""
    done = len({one.run for one in tries if one.succeeded})
    failed = sum(one.failed for one in tries)
    of = f" of {plan.completions}" if plan.completions is not None else ""
    return f"{done}{of} succeeded" + (f", {failed} failed" if failed else "")


def _is_done(plan: JobPlan, done: set[int], active: Sequence[JobTry]) -> bool:
    if plan.completions is None:
        return bool(done) and not active
    return len(done) >= plan.completions


def _problem(plan: JobPlan, failed: int, now: JobNow) -> str:
    if plan.deadline is not None and now.time >= now.since + plan.deadline:
        return f"DeadlineExceeded: it was active for {plan.deadline} s"
    restarts = sum(now.restarts.values())
    if failed > plan.backoff_limit:
        return f"BackoffLimitExceeded: tries that failed: {failed}"
    if restarts and restarts >= plan.backoff_limit:
        return f"BackoffLimitExceeded: containers were started again {restarts} times"
    return ""


def _starts(
    plan: JobPlan, tries: Sequence[JobTry], done: set[int], active: Sequence[JobTry]
) -> tuple[JobTurn, ...]:
    if plan.completions is None and done:
        return ()  # the work is done: the others come to their end
    free = plan.parallelism - len(active)
    busy = done | {one.run for one in active}
    waiting = (run for run in range(plan.completions or plan.parallelism) if run not in busy)
    turns = [JobTurn(run, sum(one.run == run for one in tries)) for run in waiting]
    return tuple(turns[:free])


def _pause_until(tries: Sequence[JobTry], pauses: Pauses) -> float:
    """The end of the pause after the failures since the last success."""
    ended = sorted((one for one in tries if one.ended), key=lambda one: one.ended)
    in_a_row = 0
    for one in ended:
        in_a_row = in_a_row + 1 if one.failed else 0
    if not in_a_row:
        return 0.0
    return ended[-1].ended + min(pauses.first * 2.0 ** min(in_a_row - 1, 30), pauses.job_most)
