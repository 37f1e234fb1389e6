"""What the daemon and the process that writes or reads an archive say to each other."""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_ANSWER = 128 << 10
"""Bytes of the answer at most: a description, or an error."""


class ArchiveOrder(msgspec.Struct, frozen=True):
    """What to do with the two descriptors."""

    directory: int
    archive: int
    parent: int
    task: Literal["write", "read", "describe"]
    description: str = ""
    """Of the volume, for `write`."""
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
    description: str = ""
    """Of the volume, from `describe`; empty: the archive has none."""
