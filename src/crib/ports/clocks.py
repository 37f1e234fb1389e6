"""The clock, and the timer for a stage of a pod's start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from crib.model.events import Stage

Clock = Callable[[], int]
"""Nanoseconds since the epoch; tests turn it by hand."""


class StageTimer(Protocol):
    """Times the stages of a pod's life (engine.timeline)."""

    def __call__(self, name: str, subject: str, /) -> AbstractContextManager[object]:
        """The context manager that times one stage."""
        ...

    def adopt(self, stages: Sequence[Stage], /) -> None:
        """Add stages that somebody else has timed, as parts of the one that the caller is in."""
        ...


class Untimed:
    """Times nothing, and keeps nothing."""

    def __call__(self, _name: str, _subject: str, /) -> AbstractContextManager[object]:
        return nullcontext()

    def adopt(self, stages: Sequence[Stage], /) -> None:
        pass
