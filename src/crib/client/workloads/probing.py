"""How answers to a probe add up to a result, by its thresholds. Without a clock and without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crib.manifest.behaviour_plan import ProbePlan


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """One answer: whether the container is well, and what was said."""

    good: bool
    text: str = ""


class ProbeTally:
    """Counts answers in a row."""

    def __init__(self, plan: ProbePlan) -> None:
        self._plan = plan
        self._good = False
        self._row = 0

    def take(self, answer: ProbeAnswer) -> bool | None:
        """True or False when the threshold is reached (again), None below it."""
        self._row = self._row + 1 if answer.good == self._good else 1
        self._good = answer.good
        wanted = self._plan.success_threshold if answer.good else self._plan.failure_threshold
        return answer.good if self._row >= wanted else None
