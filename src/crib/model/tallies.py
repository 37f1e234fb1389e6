"""What is counted while the daemon runs: by the rooms that do the work, for whoever reads it.

The one noun that changes. It costs a look-up and an addition, and its memory is bounded: labels come from
requests and configurations, so a set of labels that is one too many counts as OTHER. Everything is counted on
the event loop, and read there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

LIMIT = 64
"""Sets of labels of one tally."""
MAX_METHODS = 256
"""Methods of all services together."""
OTHER = "other"
"""The value of every label of what came when `LIMIT` sets were known."""
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds up to which the durations of each bucket go; one more bucket has those that took longer."""

Labels = tuple[str, ...]


class Tally:
    """How much of something there was, by labels."""

    __slots__ = ("_limit", "counts")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self.counts: dict[Labels, float] = {}

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        counts = self.counts
        if labels not in counts and len(counts) >= self._limit:
            labels = (OTHER,) * len(labels)
        counts[labels] = counts.get(labels, 0) + amount


@dataclass(slots=True)
class Durations:
    """Of one set of labels: how many fell into each bucket, and seconds together."""

    buckets: list[int]
    seconds: float = 0.0


class Spread:
    """How long something took, by labels."""

    __slots__ = ("_limit", "series")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self.series: dict[Labels, Durations] = {}

    def add(self, labels: Labels, seconds: float) -> None:
        series = self.series.get(labels)
        if series is None:
            if len(self.series) >= self._limit:
                labels = (OTHER,) * len(labels)
            series = self.series.setdefault(labels, Durations([0] * (len(BOUNDS) + 1)))
        series.buckets[bisect_left(BOUNDS, seconds)] += 1
        series.seconds += seconds


class Operations:
    """How often something was done, how long that took, and how often it failed, by labels."""

    __slots__ = ("durations", "failures")

    def __init__(self, limit: int = LIMIT) -> None:
        self.durations = Spread(limit)
        self.failures = Tally(limit)

    def add(self, labels: Labels, seconds: float, *, failed: bool) -> None:
        self.durations.add(labels, seconds)
        if failed:
            self.failures.add(labels)

    @contextmanager
    def timed(self, *labels: str) -> Iterator[None]:
        """Adds what is done within the block."""
        began = monotonic()
        failed = True
        try:
            yield
            failed = False
        finally:
            self.add(labels, monotonic() - began, failed=failed)


class CallFigures:
    """Of calls, by method; the number of methods bounds them."""

    __slots__ = ("answered", "durations", "open")

    def __init__(self) -> None:
        self.answered = Tally(MAX_METHODS * 4)
        """By method and code."""
        self.durations = Spread(MAX_METHODS)
        """Of those that are no streams: from the request's arrival to its answer."""
        self.open = Tally(MAX_METHODS)
        """Under way now."""

    def refused(self, method: str, code: str) -> None:
        """One that nothing was done for."""
        self.answered.add((method, code))
