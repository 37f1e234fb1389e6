"""Where the time of a pod went: the stages of its start, of its containers' restarts and ends, and its own.

Each has its length and outcome, one that is under way its age, and what the programs that ran in it used.
All is bounded. `timelines` keeps it beyond the daemon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Self

from crib.model.events import PodTimeline, Stage
from crib.model.ids import SandboxId
from crib.model.tallies import Operations
from crib.ports.clocks import Clock
from crib.tasks.keeper import at_stage

STAGE_LIMIT = 200
"""Stages kept of one sandbox: a container that restarts for ever must not fill the memory."""
FIRST_STAGES = 60
"""Of those, that many from the beginning: of a pod's restarts the latest are kept, and its own start."""
OUTCOME_LIMIT = 300
"""Characters that are kept of an error."""
_NOTHING = PodTimeline()
OK = "ok"
RUNNING = "running"
"""Outcome of a stage that is under way; its duration is its age."""
CUT_OFF = "cut off: the daemon ended before this did"
"""Outcome of one that was under way when an earlier daemon last wrote it down, with its age then."""


class StageClock:
    """Times one stage; its end is kept, whatever the outcome."""

    __slots__ = (
        "_began",
        "_outer",
        "_place",
        "_shown",
        "_timeline",
        "began_at",
        "name",
        "parent",
        "program",
        "program_cpu",
        "program_time",
        "subject",
    )

    def __init__(self, timeline: SandboxTimeline, name: str, subject: str) -> None:
        self._timeline = timeline
        self.name = name
        self.subject = subject
        self.program = ""
        self.program_cpu = self.program_time = self.parent = self._place = 0

    def __enter__(self) -> Self:
        self.began_at = self._timeline.clock()
        self._began = time.monotonic_ns()
        self._outer = _INSIDE.get()
        if self._outer is not None and self._outer._timeline is self._timeline:
            self.parent = self._outer._place
        self._place = self._timeline.begin(self)
        self._shown = at_stage(self.name, self.subject)
        self._shown.__enter__()
        _INSIDE.set(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        duration = self.age
        _INSIDE.set(self._outer)
        self._shown.__exit__(type(error) if error else None, error, None)
        outcome = OK if error is None else str(error) or type(error).__name__
        self._timeline.end(self._place, self.stage(duration, outcome[:OUTCOME_LIMIT]))
        self._timeline.figures.add((self.name,), duration / 1e9, failed=error is not None)

    @property
    def age(self) -> int:
        """Nanoseconds since it began."""
        return time.monotonic_ns() - self._began

    def stage(self, duration: int, outcome: str) -> Stage:
        """What is kept of it."""
        return Stage(
            self.name,
            self.subject,
            self.began_at,
            duration,
            outcome,
            self.parent,
            self.program,
            self.program_time,
            self.program_cpu,
        )


_INSIDE: ContextVar[StageClock | None] = ContextVar("crib_stage", default=None)
"""The stage that the current task is in."""


def program_ended(program: str, seconds: float, cpu_seconds: float) -> None:
    """Charge the stage that the current task is in with a program that it has waited for."""
    if (stage := _INSIDE.get()) is not None:
        stage.program = program.rpartition("/")[2]
        stage.program_time += int(seconds * 1e9)
        stage.program_cpu += int(cpu_seconds * 1e9)


class SandboxTimeline:
    """The stages of one sandbox. Calling it gives the context manager that times one more."""

    def __init__(self, clock: Clock, kept: PodTimeline = _NOTHING, figures: Operations | None = None) -> None:
        """`kept`: what an earlier daemon, or this one, has written down of it."""
        self.clock = clock
        self.figures = figures or Operations()
        """By name of the stage, of all sandboxes."""
        self.pod = kept.pod
        """NAMESPACE/NAME of the pod: how a person finds a start that failed, whose id nobody was told."""
        self.began_at = kept.stages[0].started_at if kept.stages else 0
        """Nanoseconds since the epoch; 0 while there is no stage."""
        self.changed: Callable[[], None] = lambda: None
        self._ended = {place: _known(stage) for place, stage in enumerate(kept.stages, 1)}
        self._open: dict[int, StageClock] = {}
        self._last = len(kept.stages)
        self._dropped = kept.dropped

    def __call__(self, name: str, subject: str = "") -> StageClock:
        return StageClock(self, name, subject)

    def mark(self, name: str, subject: str, outcome: str) -> None:
        """Something that took no time of ours: a container has ended."""
        self._last += 1
        self.end(self._last, Stage(name, subject, self.clock(), 0, outcome[:OUTCOME_LIMIT]))

    def adopt(self, stages: Sequence[Stage]) -> None:
        """Stages that were timed elsewhere, in the order in which they began, with their parents.

        Those without one are parts of the stage that the current task is in, if any.
        """
        before, outer = self._last, _INSIDE.get()
        around = outer._place if outer is not None and outer._timeline is self else 0
        for stage in stages:
            self._last += 1
            self.began_at = min(self.began_at or stage.started_at, stage.started_at)
            parent = before + stage.parent if stage.parent else around
            self.end(self._last, replace(stage, parent=parent))

    def begin(self, stage: StageClock) -> int:
        """The place of a stage that begins, from 1."""
        self._last += 1
        self._open[self._last] = stage
        self.began_at = self.began_at or stage.began_at
        self.changed()
        return self._last

    def end(self, place: int, stage: Stage) -> None:
        self._open.pop(place, None)
        self._ended[place] = stage
        if len(self._ended) > STAGE_LIMIT:
            del self._ended[sorted(self._ended)[FIRST_STAGES]]
            self._dropped += 1
        self.changed()

    def innermost(self) -> list[StageClock]:
        """Those under way that wait for none within them."""
        outer = {stage.parent for stage in self._open.values()}
        return [stage for place, stage in self._open.items() if place not in outer]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._open

    def told(self) -> PodTimeline:
        """All in the order in which they began; `parent` counts from 1 in this order."""
        running = {place: stage.stage(stage.age, RUNNING) for place, stage in self._open.items()}
        stages = sorted((self._ended | running).items())
        if self._dropped:  # else each place is the number already
            places = {place: new for new, (place, _) in enumerate(stages, 1)}
            stages = [(at, replace(stage, parent=places.get(stage.parent, 0))) for at, stage in stages]
        return PodTimeline(self.pod, tuple(stage for _, stage in stages), self._dropped)


def _known(stage: Stage) -> Stage:
    return replace(stage, outcome=CUT_OFF) if stage.outcome == RUNNING else stage


@dataclass(frozen=True, slots=True)
class PodStages:
    """The timeline of one pod sandbox."""

    sandbox: SandboxId
    timeline: PodTimeline
