"""Reading a container's log file on the node: whole lines, the last few, and as they come.

The file is the runtime's (`ContainerStatus.log_path`), in the CRI's format. Rotation renames it and makes a
new one in its place; a follower reads the old one to its end and goes on with the new one.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from crib.client.errors import NotFound, RuntimeFailure
from crib.wire.crilog import LineJoiner, LogLine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

CHUNK = 64 << 10
POLL = 0.1
"""Seconds between looks at a followed file: a person does not see less, and it costs one stat."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines: `tail` the last so many (None: all), `since` from this time on (ns since the epoch)."""

    tail: int | None = None
    since: int = 0


def read(path: str, wanted: Wanted = Wanted()) -> Iterator[LogLine]:
    """The lines that are in the file now. Raises NotFound or RuntimeFailure, naming the path."""
    with _open(path) as file:
        yield from _existing(file, LineJoiner(), wanted, finish=True)


async def follow(
    path: str,
    wanted: Wanted = Wanted(),
    ended: Callable[[], bool] = lambda: False,
) -> AsyncIterator[LogLine]:
    """The lines that are there, then each one as it comes, over rotations.

    Ends when `ended` (asked about ten times a second) says that nobody writes any more and all has been read.
    """
    file = _open(path)
    try:
        joiner = LineJoiner()
        for line in _existing(file, joiner, wanted, finish=False):
            yield line
        while True:
            last_round = ended()  # asked before the read: what was written before the end is still read
            for line in _rest(file, joiner):
                yield line
            if replacement := _rotated(file, path):
                for line in _rest(file, joiner):
                    yield line
                file.close()
                file = replacement
                continue
            if last_round:
                break
            await asyncio.sleep(POLL)
        for line in joiner.finish():
            yield line
    finally:
        file.close()


def _open(path: str) -> BinaryIO:
    if not path:
        raise NotFound("the container has no log: it was made without a log path")
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise NotFound(f"there is no log file {path}") from None
    except OSError as error:
        raise RuntimeFailure(f"cannot read log file {path}: {error.strerror}") from error


def _existing(file: BinaryIO, joiner: LineJoiner, wanted: Wanted, *, finish: bool) -> Iterator[LogLine]:
    end = os.fstat(file.fileno()).st_size
    if wanted.tail is not None:
        file.seek(_tail_offset(file, end, wanted.tail))
    lines = (line for line in _until(file, joiner, end) if line.at >= wanted.since)
    if wanted.tail is None:
        yield from lines
    else:
        kept: list[LogLine] = list(lines)
        yield from kept[len(kept) - wanted.tail :] if wanted.tail < len(kept) else kept
    if finish:
        yield from joiner.finish()


def _until(file: BinaryIO, joiner: LineJoiner, end: int) -> Iterator[LogLine]:
    left = end - file.tell()
    while left > 0 and (data := file.read(min(CHUNK, left))):
        left -= len(data)
        yield from joiner.receive(data)


def _rest(file: BinaryIO, joiner: LineJoiner) -> Iterator[LogLine]:
    while data := file.read(CHUNK):
        yield from joiner.receive(data)


def _tail_offset(file: BinaryIO, end: int, lines: int) -> int:
    """Where the last `lines` whole lines begin, read backwards; parts of a line count as one."""
    found, carry, position = 0, b"", end
    while position > 0:
        start = max(0, position - CHUNK)
        file.seek(start)
        data = file.read(position - start) + carry
        entries = data.split(b"\n")
        offset = start + len(data)
        # the first entry of a chunk may have begun before it: the next round sees it whole
        for entry in reversed(entries[1:] if start else entries):
            offset -= len(entry)
            if _ends_a_line(entry):
                found += 1
                if found > lines:
                    return offset + len(entry) + 1
            offset -= 1
        carry, position = entries[0], start
    return 0


def _ends_a_line(entry: bytes) -> bool:
    fields = entry.split(b" ", 3)
    return len(fields) > 2 and not fields[2].startswith(b"P")


def _rotated(file: BinaryIO, path: str) -> BinaryIO | None:
    """The file that has taken the place of the one we read, or None. A shrunk file is read anew."""
    mine = os.fstat(file.fileno())
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return None  # renamed, and the new one is not there yet; or removed with its container
    if (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino):
        return _open(path)
    if now.st_size < file.tell():
        file.seek(0)
    return None
