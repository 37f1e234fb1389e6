"""What is to be done next for one pod: a pure function of its plan, what runs, and what is remembered.

The rules are a kubelet's (Kubernetes 1.36, `computePodActions`): init containers one after the other, a
sidecar started before the next one begins, then all others; who ended is started again as its policy says,
after its pause; a sandbox that was lost is made again, and everything in it. A pod whose containers have all
ended for good has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from crib.supervisor.backoff import BackOff, Pauses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crib.manifest.plan import ContainerPlan, PodPlan
    from crib.supervisor.observation import Attempt, Observed

KEPT_ATTEMPTS = 2
"""Containers of one name that stay: the current one, and the one before for `crib logs --previous`."""
SANDBOX = ""
"""The sandbox among the names of what is started."""
Phase = Literal["Pending", "Running", "Succeeded", "Failed"]


@dataclass(frozen=True, slots=True)
class MakeSandbox:
    """Bring files and images, and make the sandbox."""

    attempt: int


@dataclass(frozen=True, slots=True)
class EndSandbox:
    """Stop a sandbox of the pod's with all that runs in it: it is lost, or of an earlier life."""

    id: str


@dataclass(frozen=True, slots=True)
class DropSandbox:
    """Remove a sandbox that another one has replaced."""

    id: str


@dataclass(frozen=True, slots=True)
class Start:
    """Make and start a container."""

    plan: ContainerPlan
    number: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Stop a container with its hook; `grace` None: the pod's."""

    plan: ContainerPlan
    id: str
    reason: str
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a container: an old attempt, or one that was never started."""

    id: str


Action: TypeAlias = MakeSandbox | EndSandbox | DropSandbox | Start | Kill | Remove


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """A container failed its liveness or startup probe; `grace` is the probe's own."""

    reason: str
    grace: int | None = None


@dataclass(slots=True)
class PodMemory:
    """What the runtime does not know. It begins empty with each supervisor."""

    since: float = 0.0
    """When somebody last asked for the pod to run; what was made before is of an earlier life."""
    pauses: Pauses = field(default_factory=Pauses)
    backoffs: dict[str, BackOff] = field(default_factory=dict)
    failed_at: dict[str, float] = field(default_factory=dict)
    """When a start failed that left no container to tell of it, by name."""
    problems: dict[str, str] = field(default_factory=dict)
    """What the last start failed of, by name."""
    own: set[str] = field(default_factory=set)
    """Sandboxes that were made in this life, whatever the clock said."""
    released: set[str] = field(default_factory=set)
    """Sandboxes that were stopped by us: another one may take their place."""
    started: set[str] = field(default_factory=set)
    """Containers whose postStart hook and startup probe have succeeded."""
    unhealthy: dict[str, Unhealthy] = field(default_factory=dict)
    unready: dict[str, str] = field(default_factory=dict)
    """Why containers are not ready, as far as a probe has found that."""
    ended_by_us: dict[str, str] = field(default_factory=dict)
    """Containers that were stopped for a reason of ours, which their exit code does not tell."""

    def next_start(self, name: str, ended: float, ran: float) -> float:
        """The time from which on it may be started again."""
        backoff = self.backoffs.get(name, BackOff()).after(ran, self.pauses)
        self.backoffs[name] = backoff
        return max(ended, self.failed_at.get(name, 0.0)) + backoff.pause

    def starts(self, name: str) -> None:
        """It is being started again."""
        self.backoffs[name] = self.backoffs.get(name, BackOff()).next(self.pauses)

    def failed(self, name: str, now: float, problem: str) -> None:
        """Its start failed."""
        self.failed_at[name], self.problems[name] = now, problem

    def succeeded(self, name: str) -> None:
        """Its start did not fail."""
        self.failed_at.pop(name, None)
        self.problems.pop(name, None)


@dataclass(frozen=True, slots=True)
class NextStep:
    """`actions` in their order; without any, `wake` is when to look again (None: when something moves).

    `waits` are the containers that wait for their pause, until when. `message` says why a phase is final.
    """

    phase: Phase
    actions: tuple[Action, ...] = ()
    wake: float | None = None
    waits: dict[str, float] = field(default_factory=dict)
    message: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the pod has ended for good."""
        return self.phase in ("Succeeded", "Failed")


def decide(plan: PodPlan, observed: Observed, memory: PodMemory, now: float) -> NextStep:
    """The next step for a pod that somebody wants to run."""
    return _Look(plan, observed, memory, now).decide()


class _Look:
    def __init__(self, plan: PodPlan, observed: Observed, memory: PodMemory, now: float) -> None:
        self._plan = plan
        self._observed = observed
        self._memory = memory
        self._now = now
        self._actions: list[Action] = []
        self._waits: dict[str, float] = {}

    def decide(self) -> NextStep:
        deadline = self._plan.behaviour.deadline
        if deadline is not None and self._now >= self._memory.since + deadline:
            return NextStep("Failed", message=f"DeadlineExceeded: it was active for {deadline} s")
        sandbox = self._observed.sandbox
        if sandbox is None:
            return self._new_sandbox(0)
        is_stale = sandbox.created_at < self._memory.since and sandbox.id not in self._memory.own
        if not is_stale and (final := self._final()) is not None:
            return final
        if sandbox.ready and not is_stale:
            self._memory.succeeded(SANDBOX)
            return self._in_sandbox()
        if sandbox.ready or sandbox.id not in self._memory.released:
            return NextStep("Pending", (EndSandbox(sandbox.id),))
        return self._new_sandbox(sandbox.attempt + 1)

    def _final(self) -> NextStep | None:
        """The end of a pod in which nothing is started any more."""
        for plan in self._plan.init_containers:
            latest = self._observed.latest(plan.name)
            if latest is not None and not plan.sidecar and self._is_over(plan, latest) and latest.exit_code:
                return NextStep(
                    "Failed", message=f"init container {plan.name} exited with {latest.exit_code}"
                )
        ends = [(plan, self._last(plan)) for plan in self._plan.containers]
        if not all(last is not None and self._is_over(plan, last) for plan, last in ends):
            return None
        bad = [
            f"container {last.name} exited with {last.exit_code}"
            for _, last in ends
            if last and last.exit_code
        ]
        return NextStep("Failed" if bad else "Succeeded", message="; ".join(bad))

    def _is_over(self, plan: ContainerPlan, attempt: Attempt) -> bool:
        """Whether it has ended for good."""
        if attempt.state != "exited":
            return False
        if attempt.id in self._memory.ended_by_us:
            return plan.behaviour.restart == "Never"
        return not plan.behaviour.restarts_after(attempt.exit_code)

    def _last(self, plan: ContainerPlan) -> Attempt | None:
        """Its newest attempt, or one that was over in a sandbox that was lost: that is not done again."""
        latest, earlier = self._observed.latest(plan.name), self._observed.earlier.get(plan.name)
        if latest is None and earlier is not None and earlier.started_at >= self._memory.since:
            return earlier if earlier.succeeded and self._is_over(plan, earlier) else None
        return latest

    def _new_sandbox(self, attempt: int) -> NextStep:
        at = self._memory.next_start(SANDBOX, 0.0, 0.0)
        if SANDBOX in self._memory.failed_at and self._is_future(at):
            return NextStep("Pending", wake=at, waits={SANDBOX: at})
        return NextStep("Pending", (MakeSandbox(attempt),))

    def _is_future(self, at: float) -> bool:
        """Whether to wait until then; the clock may have been set back, and no pause is longer than most."""
        return self._now < at <= self._now + self._memory.pauses.most

    def _in_sandbox(self) -> NextStep:
        self._end_unhealthy()
        if self._actions:
            return self._decision("Running")
        if not self._has_begun() and self._is_initialising():
            return self._decision("Pending")
        for plan in self._plan.init_containers:
            if plan.sidecar:
                self._see_to(plan)
        for plan in self._plan.containers:
            last = self._last(plan)
            if last is None or not self._is_over(plan, last):
                self._see_to(plan)
        self._tidy()
        return self._decision("Running")

    def _end_unhealthy(self) -> None:
        for attempt in self._observed.running():
            found = self._memory.unhealthy.get(attempt.id)
            if found is not None:
                plan = self._plan_of(attempt.name)
                self._actions.append(Kill(plan, attempt.id, found.reason, found.grace))

    def _has_begun(self) -> bool:
        """Whether the init containers are through: one of the others was made in this sandbox."""
        return any(self._observed.latest(plan.name) for plan in self._plan.containers)

    def _is_initialising(self) -> bool:
        """See to one init container after the other; whether there is one that is not through."""
        for plan in self._plan.init_containers:
            latest = self._observed.latest(plan.name)
            if plan.sidecar:
                is_up = latest is not None and latest.state == "running" and latest.id in self._memory.started
            else:
                is_up = latest is not None and latest.succeeded
            if not is_up:
                self._see_to(plan)
                return True
        return False

    def _see_to(self, plan: ContainerPlan) -> None:
        """Start it where it does not run, now or after its pause."""
        latest = self._observed.latest(plan.name)
        if latest is not None and latest.state == "running":
            return
        if latest is not None and latest.state in ("created", "unknown"):
            self._actions.append(Remove(latest.id))  # a start that was cut off
            return
        number = self._observed.next_number(plan.name)
        ended, ran = (latest.finished_at, latest.ran) if latest is not None else (0.0, 0.0)
        at = self._memory.next_start(plan.name, ended, ran)
        is_first = latest is None and plan.name not in self._memory.failed_at
        if is_first or not self._is_future(at):
            self._actions.append(Start(plan, number))
        else:
            self._waits[plan.name] = at

    def _tidy(self) -> None:
        """Old attempts, and sandboxes that were replaced and of which nothing is wanted any more."""
        for attempts in self._observed.attempts.values():
            self._actions += [Remove(attempt.id) for attempt in attempts[:-KEPT_ATTEMPTS]]
        if all(self._observed.latest(plan.name) for plan in self._plan.containers):
            self._actions += [DropSandbox(other.id) for other in self._observed.others]

    def _plan_of(self, name: str) -> ContainerPlan:
        return next(plan for plan in self._plan.every_container() if plan.name == name)

    def _decision(self, phase: Phase) -> NextStep:
        return NextStep(phase, tuple(self._actions), min(self._wakes(), default=None), self._waits)

    def _wakes(self) -> Iterator[float]:
        yield from self._waits.values()
        if self._plan.behaviour.deadline is not None:
            yield self._memory.since + self._plan.behaviour.deadline
