"""Samples to figures: medians, percentiles, noise; and the report, as a table and as JSON."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

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


FORMAT = 1


@dataclass(frozen=True, slots=True)
class Report:
    """A bench's outcome. `names` are the columns, `settings` its options (a dataclass)."""

    samples: Samples
    names: list[str]
    settings: Any
    warnings: list[str]


def table(samples: Samples, names: list[str]) -> list[str]:
    """Lines: a row for each metric, median and p99 of each runtime, its ratio to the first."""
    header = ["metric", "unit"]
    for position, name in enumerate(names):
        header.append(f"{name} median (p99)")
        if position:
            header.append(f"vs {names[0]}")
    rows = [header]
    for (metric, unit), by_name in samples.values.items():
        rows.append(_row(metric, unit, by_name, names))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _row(metric: str, unit: str, by_name: dict[str, list[float]], names: list[str]) -> list[str]:
    row = [metric, unit]
    first = by_name.get(names[0])
    for position, name in enumerate(names):
        values = by_name.get(name)
        row.append(_cell(values, unit))
        if position:
            row.append(_ratio(values, first))
    return row


def _cell(values: list[float] | None, unit: str) -> str:
    if not values:
        return "-"
    found = figures(values)
    middle = _short(found.median)
    # of a rate the slow end is its minimum, and a few rounds have no percentile
    return f"{middle} ({_short(found.p99)})" if found.count > 2 and unit == "ms" else middle


def _ratio(values: list[float] | None, first: list[float] | None) -> str:
    if not values or not first or not figures(first).median:
        return "-"
    return f"{figures(values).median / figures(first).median:.2f}x"


def _short(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def machine() -> dict[str, Any]:
    """What the figures are of."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    }


def document(samples: Samples, settings: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Everything that was measured, samples too."""
    results = []
    for (metric, unit), by_name in samples.values.items():
        for name, values in by_name.items():
            found = figures(values)
            results.append(
                {
                    "metric": metric,
                    "unit": unit,
                    "runtime": name,
                    "count": found.count,
                    "median": round(found.median, 4),
                    "p99": round(found.p99, 4),
                    "min": round(found.low, 4),
                    "max": round(found.high, 4),
                    "samples": [round(value, 4) for value in values],
                }
            )
    return {
        "format": FORMAT,
        "at": int(time.time()),
        "machine": machine(),
        "settings": settings,
        "results": results,
        "warnings": warnings,
    }
