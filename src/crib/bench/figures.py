"""Samples to figures: medians, percentiles, and whether the machine was too noisy to trust them."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

NOISY = 0.35
"""Spread (interquartile range over median) above which a row is called noisy."""
FEW = 5
"""Fewer samples than this say nothing about noise."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One metric of one runtime, in the metric's unit."""

    count: int
    median: float
    p99: float
    low: float
    high: float
    spread: float


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figures(values: list[float]) -> Figures:
    """ValueError when there are no values."""
    if not values:
        raise ValueError("no samples")
    median = statistics.median(values)
    spread = percentile(values, 0.75) - percentile(values, 0.25)
    return Figures(
        count=len(values),
        median=median,
        p99=percentile(values, 0.99),
        low=min(values),
        high=max(values),
        spread=spread / median if median else 0.0,
    )


@dataclass(slots=True)
class Samples:
    """What was measured, by metric and then by runtime; metrics keep the order of their first sample."""

    values: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)

    def add(self, metric: str, unit: str, name: str, value: float) -> None:
        self.values.setdefault((metric, unit), {}).setdefault(name, []).append(value)

    def add_all(self, unit: str, name: str, found: dict[str, float]) -> None:
        for metric, value in found.items():
            self.add(metric, unit, name, value)

    def noisy(self) -> list[str]:
        """Rows whose samples lie too far apart to compare."""
        found = []
        for (metric, _), by_name in self.values.items():
            for name, values in by_name.items():
                if len(values) >= FEW and figures(values).spread > NOISY:
                    found.append(
                        f"{metric} of {name}: half of the samples differ by {figures(values).spread:.0%}"
                    )
        return found
