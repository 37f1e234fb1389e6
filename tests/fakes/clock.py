"""Time that is turned by hand, and time that passes at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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


def without_waiting(work: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop whose time stands still while there is something to do, and jumps where it would wait.

    So a time-out comes when it should, at once, and never because the machine has other things to do. Not for
    work that waits for threads or processes.
    """
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        return runner.run(work)


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.PollSelector):
    def __init__(self, loop: _JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self._loop.now += max(timeout, 0.0)
        return ready
