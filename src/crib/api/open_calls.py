"""One call under way: how long it took and how it ended is counted."""

from __future__ import annotations

import time

from crib.model.tallies import CallFigures
from crib.tasks.calls import CallUnderWay

OK = "OK"
GONE = "CANCELLED"
"""The code of a call whose caller did not wait for an answer."""


class OpenCall:
    """From its arrival until `end`."""

    __slots__ = ("_began", "_figures", "_is_stream", "code", "name")

    def __init__(self, call: CallUnderWay, figures: CallFigures, *, is_stream: bool = False) -> None:
        self.name = call.verb
        self.code = GONE
        """Name of the status that it was answered with."""
        self._figures = figures
        self._is_stream = is_stream
        self._began = time.monotonic()
        figures.open.add((call.verb,))

    @property
    def milliseconds(self) -> float:
        """Since it began."""
        return (time.monotonic() - self._began) * 1000

    def end(self) -> None:
        figures, labels = self._figures, (self.name,)
        figures.open.add(labels, -1)
        figures.answered.add((self.name, self.code))
        if not self._is_stream:  # a stream lasts as long as its client likes
            figures.durations.add(labels, time.monotonic() - self._began)
