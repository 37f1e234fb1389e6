"""Detects a blocked event loop: a thread logs the stack of what blocks it, and each time is counted.

The loop's selector notes when the loop begins to work and when it waits again, so nothing has to wake the
loop to find out. While the loop waits, the thread sleeps too.
"""

from __future__ import annotations

import logging
import selectors
import sys
import threading
import time
from types import FrameType

from crib.model.facts import LoopLag

_log = logging.getLogger(__name__)

TOO_LONG = 0.2
"""Seconds of work between two selects after which the loop counts as blocked."""
_PERIOD = 0.1
"""Seconds between two looks at a loop that is blocked."""
_PAUSE = 1.0
"""Minimum seconds between two stacks in the log; others are only counted."""
_FRAMES = 12
"""Innermost calls of a stack that are logged."""


class _Selector(selectors.EpollSelector):
    """Notes when the loop leaves it to work and when it comes back."""

    def __init__(self, watch: LoopWatch) -> None:
        super().__init__()
        self._watch = watch

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._watch.rests()
        try:
            return super().select(timeout)
        finally:
            self._watch.works()


class LoopWatch:
    """Of one loop, which is made with its `selector`."""

    def __init__(self) -> None:
        self._since = 0.0
        """When the loop began to work; 0 while it waits."""
        self._turns = self._stalls = 0
        self._seconds = self._longest = 0.0
        self._loop_thread = 0
        self._sleeps = self._ends = False
        self._wake = threading.Event()

    def selector(self) -> selectors.BaseSelector:
        """For the loop."""
        return _Selector(self)

    def start(self) -> None:
        """From now on stacks are logged; to be called on the loop."""
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._watch, name="crib-loop-watch", daemon=True).start()

    def stop(self) -> None:
        self._ends = True
        self._wake.set()

    @property
    def lag(self) -> LoopLag:
        """How often the loop was blocked, and how long."""
        return LoopLag(self._stalls, self._seconds, self._longest)

    @property
    def blocked_for(self) -> float:
        """Seconds since the loop began with what it is at; 0 while it waits."""
        since = self._since
        return time.monotonic() - since if since else 0.0

    def works(self) -> None:
        """The loop has something to do."""
        self._since = time.monotonic()
        self._turns += 1
        if self._sleeps:
            self._wake.set()

    def rests(self) -> None:
        """The loop is about to wait."""
        since, self._since = self._since, 0.0
        if not since or (lasted := time.monotonic() - since) < TOO_LONG or not self._loop_thread:
            return
        self._stalls += 1
        self._seconds += lasted
        self._longest = max(self._longest, lasted)
        _log.warning("the loop continues: it was blocked for %.0f ms", lasted * 1000)

    def _watch(self) -> None:
        told, told_at = -1, 0.0
        while not self._ends:
            since, turns, now = self._since, self._turns, time.monotonic()
            if since and now - since >= TOO_LONG and told != turns and now - told_at >= _PAUSE:
                told, told_at = turns, now
                frame = sys._current_frames().get(self._loop_thread)
                if self._turns == turns:  # or it is the stack of something else
                    _log.warning("the loop is blocked for over %.0f ms by %s", TOO_LONG * 1000, _shown(frame))
                del frame
            elif since and told != turns:
                self._wake.wait(max(since + TOO_LONG - now, 0.01))
            elif not since:
                self._sleep_while_it_rests(turns)
            else:
                self._wake.wait(_PERIOD)

    def _sleep_while_it_rests(self, turns: int) -> None:
        self._wake.clear()
        self._sleeps = True
        if self._turns == turns and not self._ends:  # else it has begun to work before it could see this
            self._wake.wait()
        self._sleeps = False
        self._wake.clear()


def _shown(frame: FrameType | None) -> str:
    """The calls, the innermost first."""
    calls: list[str] = []
    while frame is not None and len(calls) < _FRAMES:
        file = "/".join(frame.f_code.co_filename.split("/")[-2:])
        calls.append(f"{frame.f_code.co_name} ({file}:{frame.f_lineno})")
        frame = frame.f_back
    return " < ".join(calls)
