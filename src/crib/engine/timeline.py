"""Where the time of a pod's start went: every stage, its length and its outcome, bounded, in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

from crib.model.events import Stage
from crib.model.ids import SandboxId
from crib.ports import Clock

SANDBOX_LIMIT = 1000
"""Sandboxes that are remembered, the removed ones too; the oldest goes first."""
STAGE_LIMIT = 200
"""Stages kept of one sandbox: a container that restarts for ever must not fill the memory."""


class StageClock:
    """Times one stage; its end is kept, whatever the outcome."""

    __slots__ = ("_began", "_began_at", "_name", "_subject", "_timeline")

    def __init__(self, timeline: SandboxTimeline, name: str, subject: str) -> None:
        self._timeline = timeline
        self._name = name
        self._subject = subject

    def __enter__(self) -> Self:
        self._began_at = self._timeline.clock()
        self._began = time.monotonic_ns()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        duration = time.monotonic_ns() - self._began
        outcome = "ok" if error is None else str(error) or type(error).__name__
        self._timeline.add(Stage(self._name, self._subject, self._began_at, duration, outcome[:1000]))


class SandboxTimeline:
    """The stages of one sandbox. Calling it gives the context manager that times one more."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.stages: list[Stage] = []

    def __call__(self, name: str, subject: str = "") -> StageClock:
        return StageClock(self, name, subject)

    def add(self, stage: Stage) -> None:
        if len(self.stages) < STAGE_LIMIT:
            self.stages.append(stage)


class Timeline:
    """The timelines of the latest sandboxes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sandboxes: OrderedDict[SandboxId, SandboxTimeline] = OrderedDict()

    def of(self, sandbox: SandboxId) -> SandboxTimeline:
        timeline = self._sandboxes.get(sandbox)
        if timeline is None:
            timeline = self._sandboxes[sandbox] = SandboxTimeline(self._clock)
            if len(self._sandboxes) > SANDBOX_LIMIT:
                self._sandboxes.popitem(last=False)
        return timeline

    def stages(self, sandbox: SandboxId) -> Sequence[Stage]:
        """In the order in which they ended; empty for a sandbox that is not remembered."""
        timeline = self._sandboxes.get(sandbox)
        return () if timeline is None else tuple(timeline.stages)
