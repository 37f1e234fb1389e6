"""Time that is turned by hand."""

from __future__ import annotations


class ManualClock:
    """The port `Clock`: nanoseconds since the epoch. No two readings are equal."""

    def __init__(self, now: int = 1_700_000_000_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        self.now += 1
        return self.now

    def advance(self, seconds: float) -> None:
        """Turn it forward."""
        self.now += int(seconds * 1_000_000_000)
