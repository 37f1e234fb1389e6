"""What is to be done next for a Job: a pure function of its plan and of the tries that there were.

The rules are a Job controller's (Kubernetes 1.36): as many pods at a time as `parallelism` says, a new try
for each that failed, after a pause that doubles with each failure in a row, until enough runs have succeeded
or too many tries have failed. Its policies say which failures count, which runs are given up, and what is
enough. Whoever restarts containers in place (OnFailure) counts these restarts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from crib.manifest.job_policies import FailureAction
from crib.manifest.plan import JobTurn

if TYPE_CHECKING:
    from crib.manifest.plan import JobPlan
    from crib.supervisor.backoff import Pauses

MAX_TRIES = 10_000
"""Of one Job: each leaves a pod, and is remembered. What is ignored would else go on for ever."""


class JobTry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One try: a pod of its own. Times are in seconds since the epoch; it is active while `ended` is 0.

    `verdict` is what its failure means by the Job's policy, `why` the reason of one that ends the Job.
    """

    run: int
    attempt: int
    started: float
    ended: float = 0.0
    succeeded: bool = False
    verdict: FailureAction = "Count"
    why: str = ""

    @property
    def turn(self) -> JobTurn:
        return JobTurn(self.run, self.attempt)

    @property
    def failed(self) -> bool:
        return bool(self.ended) and not self.succeeded

    @property
    def counts(self) -> bool:
        """Whether it is a failure of the Job's."""
        return self.failed and self.verdict != "Ignore"


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
    look = _JobLook(plan, tries)
    if ending := next((one.why for one in tries if one.verdict == "FailJob"), ""):
        return JobStep("Failed", message=f"PodFailurePolicy: {ending}")
    if not look.is_done() and (problem := look.problem(now)):
        return JobStep("Failed", message=problem)
    if look.is_done():
        return JobStep("Succeeded", message=progress(plan, tries))
    wakes = [] if plan.deadline is None else [now.since + plan.deadline]
    starts: list[JobTurn] = []
    free = plan.parallelism - len(look.active)
    for turn in look.waiting() if free > 0 else ():
        pause = look.pause_until(turn.run, now.pauses)
        if now.time < pause <= now.time + now.pauses.job_most:
            wakes.append(pause)
        else:
            starts.append(turn)
        if len(starts) == free:
            break
    return JobStep("Running", tuple(starts), min(wakes, default=None), progress(plan, tries))


def progress(plan: JobPlan, tries: Sequence[JobTry]) -> str:
    """How far it is, for people."""
    look = _JobLook(plan, tries)
    of = f" of {plan.completions}" if plan.completions is not None else ""
    parts = [f"{len(look.done)}{of} succeeded"]
    if failed := sum(one.counts for one in tries):
        parts.append(f"{failed} failed")
    if ignored := sum(one.failed and not one.counts for one in tries):
        parts.append(f"{ignored} ignored")
    return ", ".join(parts)


class _JobLook:
    """A Job's tries, seen by its runs."""

    def __init__(self, plan: JobPlan, tries: Sequence[JobTry]) -> None:
        self._plan = plan
        self._tries = tries
        self.active = [one for one in tries if not one.ended]
        self.done = {one.run for one in tries if one.succeeded}
        self._given_up = set(self._failed_runs())
        self._failures_in_a_row = self._in_a_row()

    def _failed_runs(self) -> Iterator[int]:
        """Runs that are not tried again, although the Job goes on."""
        limit = self._plan.policy.limit_per_run
        if limit is None:
            return
        failures = Counter(one.run for one in self._tries if one.counts)
        told = {one.run for one in self._tries if one.verdict == "FailIndex"}
        yield from (run for run in failures if failures[run] > limit or run in told)

    def is_done(self) -> bool:
        """Whether enough has succeeded."""
        if self._plan.completions is None:
            return bool(self.done) and not self.active
        if any(rule.is_met(self.done) for rule in self._plan.policy.successes):
            return True
        return len(self.done) >= self._plan.completions

    def problem(self, now: JobNow) -> str:
        """Why it has failed; empty if it has not."""
        plan, policy = self._plan, self._plan.policy
        failed = sum(one.counts for one in self._tries)
        if plan.deadline is not None and now.time >= now.since + plan.deadline:
            return f"DeadlineExceeded: it was active for {plan.deadline} s"
        restarts = sum(now.restarts.values())
        if failed > plan.backoff_limit:
            return f"BackoffLimitExceeded: tries that failed: {failed}"
        if restarts and restarts >= plan.backoff_limit:
            return f"BackoffLimitExceeded: containers were started again {restarts} times"
        if policy.max_failed is not None and len(self._given_up) > policy.max_failed:
            return f"MaxFailedIndexesExceeded: indexes that failed: {_numbers(self._given_up)}"
        if self._given_up and len(self._given_up | self.done) == plan.completions:
            return f"FailedIndexes: {_numbers(self._given_up)}"
        if len(self._tries) >= MAX_TRIES and not self.active:
            return f"TooManyTries: {len(self._tries)}"
        return ""

    def waiting(self) -> Iterator[JobTurn]:
        """The next turns of all runs that have something to do and do nothing."""
        plan = self._plan
        if (plan.completions is None and self.done) or len(self._tries) >= MAX_TRIES:
            return  # the work is done, or given up: the others come to their end
        busy = self.done | self._given_up | {one.run for one in self.active}
        attempts = Counter(one.run for one in self._tries)
        for run in range(plan.completions or plan.parallelism):
            if run not in busy:
                yield JobTurn(run, attempts[run])

    def pause_until(self, run: int, pauses: Pauses) -> float:
        """The end of the pause after failures in a row; of the run alone, if it has a limit of its own."""
        key = None if self._plan.policy.limit_per_run is None else run
        ended, in_a_row = self._failures_in_a_row.get(key, (0.0, 0))
        if not in_a_row:
            return 0.0
        return ended + min(pauses.first * 2.0 ** min(in_a_row - 1, 30), pauses.job_most)

    def _in_a_row(self) -> dict[int | None, tuple[float, int]]:
        """When the last try has ended, and how many have failed since the last success: of each run, and of
        all (None).
        """
        found: dict[int | None, tuple[float, int]] = {}
        for one in sorted((one for one in self._tries if one.ended), key=lambda one: one.ended):
            for key in (one.run, None):
                before = found.get(key, (0.0, 0))[1]
                found[key] = (one.ended, before + 1 if one.failed else 0)
        return found


def _numbers(runs: Collection[int]) -> str:
    """`0,2-5`, as Kubernetes writes indexes."""
    parts: list[list[int]] = []
    for run in sorted(runs):
        if parts and run == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], run]
        else:
            parts.append([run])
    return ",".join("-".join(map(str, part)) for part in parts)
