"""Descriptors that stay open for long, under numbers that nobody else needs.

libnftables waits with select(2), and the C library ends the process when a descriptor there is not below 1024
(FD_SETSIZE). So what is kept by pods and containers, of which there may be thousands, does not take these.
"""

from __future__ import annotations

import fcntl
import os

FD_SETSIZE = 1024
"""Of the C library (select(2))."""


def moved_up(descriptor: int) -> int:
    """The same under a number from FD_SETSIZE on, close-on-exec; the other is closed.

    As it was where the process may not have so many (RLIMIT_NOFILE).
    """
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FD_SETSIZE)
    except OSError:
        return descriptor
    os.close(descriptor)
    return moved


def lowest_free() -> int:
    """The number that the next descriptor gets, unless another thread is faster. OSError: there is none."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(null)
    return null
