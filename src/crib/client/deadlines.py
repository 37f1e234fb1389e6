"""One time limit for everything that a block of a program does with runtimes."""

from __future__ import annotations

import contextlib
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ends: ContextVar[float | None] = ContextVar("crib_deadline", default=None)
"""When the block ends that this task or thread is in, on the monotonic clock."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """All calls and waits in the block have to end within so many seconds together; TimedOut.

        with deadline(30):
            client.pull("docker.io/library/busybox:1.36")
            client.wait(client.run_pod_container(pod, container))

    For both faces, hence no `async with`. A deadline within another one ends no later than that.
    """
    ends, outer = time.monotonic() + seconds, _ends.get()
    token = _ends.set(ends if outer is None else min(ends, outer))
    try:
        yield
    finally:
        _ends.reset(token)


def left_of(ends: float | None) -> float | None:
    """Seconds until `ends` or the deadline, whichever comes first; None without either."""
    known = [moment for moment in (ends, _ends.get()) if moment is not None]
    return min(known) - time.monotonic() if known else None
