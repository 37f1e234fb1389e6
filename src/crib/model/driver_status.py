"""What is known of each CSI driver, for people: who it is, what it can, and what it was asked."""

from __future__ import annotations

from dataclasses import dataclass

from crib.model.tallies import Operations, Tally

MOST_SERIES = 512
"""Drivers times calls that are counted each for itself."""
MOST_ANSWERS = 2048
"""The same, times the codes of their answers."""


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """One driver now."""

    name: str
    socket: str
    ready: bool
    problem: str = ""
    """Why it is not ready."""
    version: str = ""
    capabilities: tuple[str, ...] = ()
    """What it can, in the interface's words: `controller CREATE_DELETE_VOLUME`."""
    node_id: str = ""
    most_volumes: int = 0
    """That it can attach to this node; 0: it does not say."""
    calls: int = 0
    failures: int = 0
    """Calls that it answered with an error, or did not answer."""
    seconds: float = 0.0
    """That all calls took together."""


class DriverFigures:
    """Counted since the daemon began."""

    __slots__ = ("answers", "calls")

    def __init__(self) -> None:
        self.calls = Operations(MOST_SERIES)
        """By driver and call; each repeated call counts."""
        self.answers = Tally(MOST_ANSWERS)
        """By driver, call and code."""

    def of(self, driver: str) -> tuple[int, int, float]:
        """Calls of one driver, failures among them, and the seconds that all took."""
        durations = [one for (name, _), one in self.calls.durations.series.items() if name == driver]
        failures = sum(count for (name, _), count in self.calls.failures.counts.items() if name == driver)
        calls = sum(sum(one.buckets) for one in durations)
        return calls, int(failures), sum(one.seconds for one in durations)
