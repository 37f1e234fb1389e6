"""A pod without a runtime: it does what is decided, on a clock that only tests move."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field, replace

from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, PodPlan, Site
from crib.supervisor.backoff import Pauses
from crib.supervisor.decide import (
    DropSandbox,
    EndSandbox,
    Kill,
    MakeSandbox,
    NextStep,
    PodMemory,
    Remove,
    Start,
    decide,
)
from crib.supervisor.observation import Attempt, Observed, Sandbox

EPOCH = 1_000_000.0


def plan_of(spec: str) -> PodPlan:
    """A pod of this spec."""
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, uid: u1}\nspec:\n" + textwrap.indent(
        textwrap.dedent(spec).strip("\n"), "  "
    )
    return read_plans(text, Site(Dirs("/pods"), memory=1 << 30)).pods[0]


@dataclass
class PodWorld:
    """`starts` are names of containers as they were started, with the time since the beginning."""

    plan: PodPlan
    memory: PodMemory = field(default_factory=lambda: PodMemory(since=EPOCH, pauses=Pauses()))
    now: float = EPOCH
    seen: Observed = field(default_factory=Observed)
    starts: list[tuple[float, str]] = field(default_factory=list)
    kills: list[str] = field(default_factory=list)
    ids: int = 0

    def settle(self) -> NextStep:
        """Do what is decided until there is nothing to be done at this moment."""
        for _ in range(100):
            decision = decide(self.plan, self.seen, self.memory, self.now)
            if not decision.actions or decision.is_final:
                return decision
            for action in decision.actions:
                self._do(action)
        raise AssertionError(f"it never settles: {decision}")

    def pass_time(self, seconds: float) -> NextStep:
        """Let time pass, with a look whenever one was asked for."""
        until = self.now + seconds
        while True:
            decision = self.settle()
            if decision.wake is None or decision.wake > until:
                break
            assert decision.wake > self.now, decision
            self.now = decision.wake
        self.now = until
        return self.settle()

    def _do(self, action: object) -> None:
        seen = self.seen
        match action:
            case MakeSandbox(attempt):
                self.ids += 1
                others = (*seen.others, *([seen.sandbox] if seen.sandbox else []))
                earlier = {**seen.earlier, **{name: found[-1] for name, found in seen.attempts.items()}}
                sandbox = Sandbox(f"s{self.ids}", True, attempt, self.now)
                self.seen = Observed(sandbox, others, {}, earlier)
                self.memory.own.add(sandbox.id)
            case Start(plan, number):
                if seen.latest(plan.name) is not None:
                    self.memory.starts(plan.name)
                self.ids += 1
                made = Attempt(f"c{self.ids}", plan.name, number, "running", started_at=self.now)
                self._put((*seen.attempts.get(plan.name, ()), made))
                self.starts.append((self.now - EPOCH, plan.name))
                if plan.behaviour.startup is None:
                    self.memory.started.add(made.id)
            case Kill(plan, container, reason):
                self.kills.append(f"{plan.name}: {reason}")
                self.memory.ended_by_us[container] = reason
                self.exits(plan.name, 137)
            case Remove(container):
                for found in list(seen.attempts.values()):
                    self._put(tuple(one for one in found if one.id != container), found[0].name)
            case EndSandbox(sandbox_id):
                for name in list(seen.attempts):
                    self.exits(name, 137)
                self.lose()
                self.memory.released.add(sandbox_id)
            case DropSandbox(sandbox_id):
                others = tuple(one for one in seen.others if one.id != sandbox_id)
                self.seen = replace(seen, others=others)

    def _put(self, attempts: tuple[Attempt, ...], name: str = "") -> None:
        name = name or attempts[0].name
        self.seen = replace(self.seen, attempts={**self.seen.attempts, name: attempts})

    def running(self) -> list[str]:
        return [attempt.name for attempt in self.seen.running()]

    def exits(self, name: str, code: int) -> None:
        """The container ends, if it runs."""
        found = self.seen.attempts[name]
        if found[-1].state == "running":
            last = replace(found[-1], state="exited", exit_code=code, finished_at=self.now)
            self._put((*found[:-1], last))

    def lose(self) -> None:
        """The sandbox is no longer ready."""
        assert self.seen.sandbox is not None
        self.seen = replace(self.seen, sandbox=replace(self.seen.sandbox, ready=False))

    def reboot(self) -> None:
        """Everything ends, and nobody remembers anything."""
        for name in list(self.seen.attempts):
            self.exits(name, 255)
        self.lose()
        self.forget()

    def forget(self) -> None:
        """kill -9 of the supervisor: what runs is looked at by another one."""
        self.memory = PodMemory(since=self.memory.since, pauses=self.memory.pauses)
        self.memory.started |= {attempt.id for attempt in self.seen.running()}
