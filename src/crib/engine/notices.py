"""What is wrong with the node itself now, and what its start had to mend: for Status and `crib check`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from crib.ports.clocks import Clock

_log = logging.getLogger(__name__)

Told = Callable[[str, str, str], None]

LIMIT = 256
"""Warnings, and notices of what is over, that are kept: the latest ones."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that an administrator should know."""

    subject: str
    """What it is about, and its key: `records`, `layers`, `exits of crun`, …"""
    text: str
    at: int
    """Nanoseconds since the epoch."""
    is_fault: bool
    """It lasts, and nothing new should be made until it has ended; otherwise it is a warning, or over."""


class Notices:
    """At most one fault or warning for each subject; what is over is remembered for the daemon's life."""

    def __init__(self, clock: Clock, told: Told = lambda action, subject, text: None) -> None:
        """`told` hears of each once: `fault`, `warning` or `notice` with its subject and text."""
        self._clock = clock
        self._told = told
        self._faults: dict[str, Notice] = {}
        self._warnings: dict[str, Notice] = {}
        self._past: list[Notice] = []
        self.watchers: list[Callable[[], None]] = []
        """Called when something has gone wrong, or no longer is."""

    def fault(self, subject: str, text: str) -> None:
        """From now on something is wrong; logged when it was not known."""
        known = self._faults.get(subject)
        if known is None:
            _log.error("%s: %s", subject, text)
            self._told("fault", subject, text)
        if known is None or known.text != text:
            self._faults[subject] = Notice(subject, text, known.at if known else self._clock(), True)
            self._tell()

    def warn(self, subject: str, text: str) -> None:
        """From now on something is unusual, and hinders nobody; logged when it was not known."""
        if subject not in self._warnings:
            _log.warning("%s: %s", subject, text)
            self._told("warning", subject, text)
        self._warnings[subject] = Notice(subject, text, self._clock(), False)
        for oldest in list(self._warnings)[:-LIMIT]:
            del self._warnings[oldest]

    def healed(self, subject: str) -> None:
        """It is no longer so; nothing happens where it was not."""
        fault = self._faults.pop(subject, None) or self._warnings.pop(subject, None)
        if fault is not None:
            self.past(subject, f"{fault.text}; that has ended")
            self._tell()

    def follow(self, subject: str) -> Callable[[str], None]:
        """For who tells one thing at a time: a text warns, an empty one means that it is over."""

        def told(text: str) -> None:
            if text:
                self.warn(subject, text)
            else:
                self.healed(subject)

        return told

    def past(self, subject: str, text: str) -> None:
        """Something was wrong and has been mended, or lost."""
        _log.warning("%s: %s", subject, text)
        self._told("notice", subject, text)
        self._past.append(Notice(subject, text, self._clock(), False))
        del self._past[:-LIMIT]

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher()

    @property
    def faults(self) -> tuple[Notice, ...]:
        """What is wrong now, the oldest first."""
        return tuple(sorted(self._faults.values(), key=lambda notice: notice.at))

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """What is unusual now, the oldest first."""
        return tuple(self._warnings.values())

    def __iter__(self) -> Iterator[Notice]:
        """The faults and warnings, then what is over, the latest first."""
        yield from self.faults
        yield from self.warnings
        yield from reversed(self._past)
