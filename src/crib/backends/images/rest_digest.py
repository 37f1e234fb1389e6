"""The digest of what a layer's file holds beside its data, at a cost that holes do not raise.

A sparse member of some bytes may expand to gigabytes of holes. Only windows of the file that are not all
zeros are hashed, each with its place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterator

WINDOW = 1 << 20
_PLACE = struct.Struct(">QQ")


class RestDigest:
    """Fed with windows in order; two files with equal rests have equal digests, wherever their holes are."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, offset: int, data: bytes) -> None:
        """What is in the file at `offset`: one of `windows`, or the file's first bytes."""
        if data.count(0) < len(data):
            self._hash.update(_PLACE.pack(offset, len(data)))
            self._hash.update(data)

    @property
    def value(self) -> str:
        """As a digest's text."""
        return f"sha256:{self._hash.hexdigest()}"


def windows(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the windows between `start` and `end` that may hold data (lseek(2), SEEK_DATA).

    All but the first begin at a multiple of WINDOW.
    """
    while start < end:
        try:
            found = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole
                return
            found = start
        start = max(start, found - found % WINDOW)
        stop = min(end, start - start % WINDOW + WINDOW)
        if start < stop:
            yield start, stop - start
        start = stop
