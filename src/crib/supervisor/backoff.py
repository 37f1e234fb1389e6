"""How long a container that ended waits before it is started again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pauses:
    """The bounds, in seconds, as in Kubernetes: 10 s, doubled to 5 min, forgotten after 10 min of running.

    Between the tries of a Job it is 10 s, doubled to 10 min.
    """

    first: float = 10.0
    most: float = 300.0
    forgotten_after: float = 600.0
    job_most: float = 600.0


@dataclass(frozen=True, slots=True)
class BackOff:
    """The pause before the next start; the first start after an end comes at once."""

    pause: float = 0.0

    def after(self, ran: float, pauses: Pauses) -> BackOff:
        """As it is after the container has run for so many seconds."""
        return BackOff() if ran >= pauses.forgotten_after else self

    def next(self, pauses: Pauses) -> BackOff:
        """As it is once the container has been started again."""
        return BackOff(min(2 * self.pause or pauses.first, pauses.most))
