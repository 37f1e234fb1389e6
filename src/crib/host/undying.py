"""Our programs that SIGKILL did not end, because they wait in the kernel for a disk that does not answer.

Nothing can be done about one. But repeated attempts for the same object must not leave one more each time.
Belongs to the loop's thread, as starting programs does.
"""

from __future__ import annotations

import errno
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

GRACE = 5.0
"""Seconds that a program has to end from SIGKILL."""
MAX_OF_ONE = 4
"""Programs of one owner that outlive SIGKILL: no more are started for it until one has ended."""


class TooManyUndying(TimeoutError):
    """Not started."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.ETIMEDOUT, text)

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, slots=True)
class Killed:
    """A program of ours that was sent SIGKILL."""

    what: str
    """As one would type it, with its pid."""
    owner: str
    """Id of the pod sandbox or container that it was started for; empty where it was for none."""
    at: float
    """In the time of `time.monotonic`."""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.at


_killed: dict[int, Killed] = {}


def note(pid: int, argv: Sequence[str], owner: str) -> None:
    """It is sent SIGKILL; the first time counts."""
    _killed.setdefault(pid, Killed(f"{shlex.join(argv)} (pid {pid})", owner, time.monotonic()))


def forget(pid: int) -> None:
    """It has ended."""
    _killed.pop(pid, None)


def undying() -> list[Killed]:
    """Those that still exist after `GRACE`, the oldest first."""
    return [one for one in _killed.values() if one.seconds >= GRACE]


def refuse_if_many(owner: str, program: str) -> None:
    """TooManyUndying where `owner` has `MAX_OF_ONE` of them."""
    if not _killed or not owner:
        return
    found = [one for one in undying() if one.owner == owner]
    if len(found) >= MAX_OF_ONE:
        first = found[0]
        raise TooManyUndying(
            f"{program} is not started: {len(found)} programs of the same pod or container have outlived"
            f" SIGKILL, the first one {first.seconds:.0f} s after it: {first.what}"
        )
