"""What the daemon and the process that writes or reads an archive say to each other."""

from __future__ import annotations

import msgspec

MAX_ANSWER = 64 << 10
"""Bytes of the answer at most."""


class ArchiveOrder(msgspec.Struct, frozen=True):
    """What to do with the two descriptors."""

    directory: int
    archive: int
    parent: int
    write: bool
    compress: bool = False
    min_free: int = 0
    max_bytes: int = 0


class ArchiveAnswer(msgspec.Struct, frozen=True):
    """How it went: an `error`, or the bytes of files."""

    error: str = ""
    refused: bool = False
    """The archive is to blame."""
    full: bool = False
    """A disk is full."""
    size: int = 0
    left_out: int = 0
