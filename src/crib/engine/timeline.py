"""Where the time of a pod's start went: every stage, its length and its outcome, bounded, in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Self

from crib.engine.tables import MIN_PREFIX
from crib.model.events import Stage
from crib.model.ids import SandboxId
from crib.model.tallies import Operations
from crib.ports.clocks import Clock
from crib.tasks.keeper import at_stage

SANDBOX_LIMIT = 1000
"""Sandboxes that are remembered, the removed ones too; the oldest goes first."""
STAGE_LIMIT = 200
"""Stages kept of one sandbox: a container that restarts for ever must not fill the memory."""


class StageClock:
    """Times one stage; its end is kept, whatever the outcome."""

    __slots__ = ("_began", "_began_at", "_name", "_outer", "_place", "_shown", "_subject", "_timeline")

    def __init__(self, timeline: SandboxTimeline, name: str, subject: str) -> None:
        self._timeline = timeline
        self._name = name
        self._subject = subject

    def __enter__(self) -> Self:
        self._began_at = self._timeline.clock()
        self._began = time.monotonic_ns()
        self._place = self._timeline.begin()
        self._outer = _INSIDE.get()
        self._shown = at_stage(self._name, self._subject)
        self._shown.__enter__()
        _INSIDE.set((self._timeline, self._place))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        duration = time.monotonic_ns() - self._began
        _INSIDE.set(self._outer)
        self._shown.__exit__(type(error) if error else None, error, None)
        outcome = "ok" if error is None else str(error) or type(error).__name__
        timeline, place = self._outer or (None, 0)
        parent = place if timeline is self._timeline else 0
        stage = Stage(self._name, self._subject, self._began_at, duration, outcome[:1000], parent)
        self._timeline.end(self._place, stage)
        self._timeline.figures.add((self._name,), duration / 1e9, failed=error is not None)


_INSIDE: ContextVar[tuple[SandboxTimeline, int] | None] = ContextVar("crib_stage", default=None)
"""The timeline and place of the stage that the current task is in."""


class SandboxTimeline:
    """The stages of one sandbox. Calling it gives the context manager that times one more."""

    def __init__(self, clock: Clock, figures: Operations | None = None) -> None:
        self.clock = clock
        self.figures = figures or Operations()
        """By name of the stage, of all sandboxes."""
        self.pod = ""
        """NAMESPACE/NAME of the pod: how a person finds a start that failed, whose id nobody was told."""
        self._stages: list[Stage | None] = []

    def __call__(self, name: str, subject: str = "") -> StageClock:
        return StageClock(self, name, subject)

    def begin(self) -> int:
        """A place for a stage that begins, from 1; 0 when there is no room for more."""
        if len(self._stages) >= STAGE_LIMIT:
            return 0
        self._stages.append(None)
        return len(self._stages)

    def end(self, place: int, stage: Stage) -> None:
        if place:
            self._stages[place - 1] = stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those that have ended, in the order in which they began; `parent` counts from 1 in this order."""
        ended = [(place, stage) for place, stage in enumerate(self._stages, 1) if stage is not None]
        places = {place: new for new, (place, _) in enumerate(ended, 1)}
        return tuple(replace(stage, parent=places.get(stage.parent, 0)) for _, stage in ended)


@dataclass(frozen=True, slots=True)
class PodStart:
    """The start of one pod, as it is remembered."""

    sandbox: SandboxId
    pod: str
    """NAMESPACE/NAME."""
    stages: tuple[Stage, ...]


class Timeline:
    """The timelines of the latest sandboxes."""

    def __init__(self, clock: Clock, figures: Operations | None = None) -> None:
        self._clock = clock
        self._figures = figures or Operations()
        self._sandboxes: OrderedDict[SandboxId, SandboxTimeline] = OrderedDict()

    def of(self, sandbox: SandboxId) -> SandboxTimeline:
        timeline = self._sandboxes.get(sandbox)
        if timeline is None:
            timeline = self._sandboxes[sandbox] = SandboxTimeline(self._clock, self._figures)
            if len(self._sandboxes) > SANDBOX_LIMIT:
                self._sandboxes.popitem(last=False)
        return timeline

    def find(self, text: str) -> PodStart | None:
        """By id or a beginning of it, NAMESPACE/NAME or NAME; of several the latest. Removed ones too."""
        for sandbox, timeline in reversed(self._sandboxes.items()):
            by_id = len(text) >= MIN_PREFIX and sandbox.startswith(text)
            if by_id or timeline.pod == text or timeline.pod.partition("/")[2] == text:
                return PodStart(sandbox, timeline.pod, timeline.stages)
        return None

    def stages(self, sandbox: SandboxId) -> Sequence[Stage]:
        """Those of one sandbox; empty for one that is not remembered."""
        timeline = self._sandboxes.get(sandbox)
        return () if timeline is None else timeline.stages
