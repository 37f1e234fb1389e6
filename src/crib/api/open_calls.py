"""One call under way: how long it took and how it ended is counted."""

from __future__ import annotations

from crib.model.tallies import CallFigures
from crib.tasks.calls import CallUnderWay


class OpenCall:
    """From its arrival until `end`."""

    __slots__ = ("_call", "_figures", "_is_stream")

    def __init__(self, call: CallUnderWay, figures: CallFigures, *, is_stream: bool = False) -> None:
        self._call = call
        self._figures = figures
        self._is_stream = is_stream
        figures.open.add((call.verb,))

    def end(self) -> None:
        figures, labels = self._figures, (self._call.verb,)
        figures.open.add(labels, -1)
        figures.answered.add((self._call.verb, self._call.code))
        if not self._is_stream:  # a stream lasts as long as its client likes
            figures.durations.add(labels, self._call.milliseconds / 1000)
