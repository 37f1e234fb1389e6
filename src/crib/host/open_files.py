"""What processes have open, from /proc/PID/fd (proc_pid_fd(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable

_MOST = 100_000
"""Descriptors that are looked at: a process may have a million of them."""


def count_descriptors(pids: Iterable[int]) -> tuple[int, int] | None:
    """How many descriptors these processes have open, and how many of them are sockets.

    A process that has ended has none. None where there are too many to be looked at.
    """
    descriptors = sockets = 0
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        descriptors += len(names)
        if descriptors > _MOST:
            return None
        sockets += sum(map(_is_socket, (f"/proc/{pid}/fd/{name}" for name in names)))
    return descriptors, sockets


def _is_socket(link: str) -> bool:
    try:
        return os.readlink(link).startswith("socket:")
    except OSError:
        return False  # it was closed meanwhile
