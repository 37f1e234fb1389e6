"""What pulls and imports leave free on their file system: checked before and while a layer is written."""

from __future__ import annotations

import os

from crib.model.errors import Exhausted

EVERY = 8 << 20
"""Bytes written between two looks."""


def require_free(place: int | str, needed: int, min_free: int, what: str) -> None:
    """Exhausted when `needed` bytes more would leave less than `min_free` on the file system of `place`, a
    descriptor or a path; 0 switches it off. `what` begins the message."""
    if not min_free:
        return
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    if free - needed < min_free:
        raise Exhausted(
            f"{what}: no space: {free} bytes are free, {needed} more are needed and {min_free} must stay"
            " (images.min_free)"
        )
