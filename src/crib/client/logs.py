"""Reading a container's log file on the node: whole lines, the last few, and as they come.

The file is the runtime's (`ContainerStatus.log_path`), in the CRI's format. Rotation renames it to a name
that begins with the old one and makes a new one in its place. A follower reads the old one to its end, then
whatever was rotated since, then the new one; and the first line of a file is joined with the parts of it that
are at the end of the file before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from crib.client import events, pods
from crib.client.errors import ClientError, NotFound, RuntimeFailure
from crib.stubs.runtime.v1.api_pb2 import CONTAINER_EXITED
from crib.wire.crilog import LineJoiner, LogLine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from crib.client.connection import Connection

CHUNK = 64 << 10
_LINES_BACK = 64
"""Whole lines at the end of a rotated file among which the parts of an unfinished one are looked for."""
POLL = 0.1
"""Seconds between looks at a followed file: a person does not see less, and it costs one stat."""
RETRY = 1.0
"""Seconds between attempts to ask a runtime that does not answer whether a container has ended."""


@dataclass(frozen=True, slots=True)
class WantedLines:
    """Which lines: `tail` the last so many (None: all), `since` and `until` a time (ns since the epoch)."""

    tail: int | None = None
    since: int = 0
    until: int = 0
    """0: no end."""

    def has(self, line: LogLine) -> bool:
        """Whether the line is of the wanted time."""
        return line.at >= self.since and not self.is_over(line)

    def is_over(self, line: LogLine) -> bool:
        return bool(self.until) and line.at > self.until


def read(path: str, wanted: WantedLines = WantedLines()) -> Iterator[LogLine]:
    """The lines that are in the file now. Raises NotFound or RuntimeFailure, naming the path."""
    with _open(path) as file:
        yield from _existing(file, LineJoiner(), wanted, finish=True)


async def follow(
    path: str,
    wanted: WantedLines = WantedLines(),
    ended: Callable[[], bool] = lambda: False,
) -> AsyncIterator[LogLine]:
    """The existing lines, then each new one as it comes, across rotations.

    Ends when `ended` (called about ten times a second) says that writing has ended, and everything was read.
    """
    file = _open(path)
    try:
        joiner = LineJoiner()
        for line in _existing(file, joiner, wanted, finish=False):
            yield line
        while True:
            last_round = ended()  # called before the read, so that everything written before the end is read
            for line in _rest(file, joiner):
                if wanted.is_over(line):
                    return
                yield line
            if replacement := _rotated(file, path):
                for line in _over(file, replacement, path, joiner):
                    yield line
                file.close()
                file = replacement
                continue
            if _was_cut(file):
                for line in joiner.finish():
                    yield line
                file.seek(0)
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


def _existing(file: BinaryIO, joiner: LineJoiner, wanted: WantedLines, *, finish: bool) -> Iterator[LogLine]:
    end = os.fstat(file.fileno()).st_size
    if wanted.tail is not None and not wanted.until:
        file.seek(_tail_offset(file, end, wanted.tail))
    if file.tell() == 0:
        _take_beginnings(file, joiner)
    lines = _until(file, joiner, end)
    if finish:
        lines = itertools.chain(lines, _finished(joiner))
    wanted_lines = filter(wanted.has, lines)
    yield from wanted_lines if wanted.tail is None else deque(wanted_lines, wanted.tail)


def _finished(joiner: LineJoiner) -> Iterator[LogLine]:
    """What is left in it, looked at when all before has been read."""
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


def _take_beginnings(file: BinaryIO, joiner: LineJoiner) -> None:
    """Give the joiner the parts of unfinished lines at the end of the file before, if that is still there."""
    earlier = _set_aside(file.name, before=os.fstat(file.fileno()))
    if not earlier:
        return
    with contextlib.suppress(NotFound, RuntimeFailure), _open(earlier[-1]) as last:
        end = os.fstat(last.fileno()).st_size
        # A line of the other stream may have ended between two parts of one.
        last.seek(_tail_offset(last, end, _LINES_BACK))
        for _whole in _until(last, joiner, end):
            pass
        for _whole in joiner.next_file():
            pass


def _over(file: BinaryIO, replacement: BinaryIO, path: str, joiner: LineJoiner) -> Iterator[LogLine]:
    """The rest of `file`, then all that was written between it and `replacement`, whole."""
    yield from _rest(file, joiner)
    yield from joiner.next_file()
    for between in _set_aside(path, after=os.fstat(file.fileno()), before=os.fstat(replacement.fileno())):
        with contextlib.suppress(NotFound, RuntimeFailure), _open(between) as missed:
            yield from _rest(missed, joiner)
            yield from joiner.next_file()


def _set_aside(path: str, before: os.stat_result, after: os.stat_result | None = None) -> list[str]:
    """Files that the log was rotated to and last written between these two, oldest first."""
    directory, name = os.path.split(path)
    found: list[tuple[int, str]] = []
    for entry in os.scandir(directory or "."):
        if not entry.name.startswith(f"{name}.") or entry.name.endswith((".gz", ".tmp")):
            continue
        with contextlib.suppress(FileNotFoundError):
            stat = entry.stat()
            later = after is None or (stat.st_mtime_ns > after.st_mtime_ns and not _same(stat, after))
            if later and stat.st_mtime_ns <= before.st_mtime_ns and not _same(stat, before):
                found.append((stat.st_mtime_ns, entry.path))
    return [found_path for _at, found_path in sorted(found)]


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _was_cut(file: BinaryIO) -> bool:
    """Whether the file was truncated in place: its content is new then."""
    return os.fstat(file.fileno()).st_size < file.tell()


def _rotated(file: BinaryIO, path: str) -> BinaryIO | None:
    """The file that has taken the place of the one we read, or None."""
    mine = os.fstat(file.fileno())
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return None  # renamed, and the new one does not exist yet; or removed with its container
    return None if _same(now, mine) else _open(path)


async def of_container(
    connection: Connection, container_id: str, wanted: WantedLines, *, go_on: bool = False
) -> AsyncIterator[LogLine]:
    """The lines of a container, found through the runtime; with `go_on` until it has ended or is removed.

    The file is read by this program: NotFound or RuntimeFailure, naming the path, if it is not within reach.
    A runtime that is restarted meanwhile does not end it: containers keep writing.
    """
    status = await pods.container_status(connection, container_id)
    if not go_on or status.state == CONTAINER_EXITED:
        for line in read(status.log_path, wanted):
            yield line
        return
    watching = asyncio.ensure_future(_until_ended(connection, container_id))
    try:
        async for line in follow(status.log_path, wanted, ended=watching.done):
            yield line
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _until_ended(connection: Connection, container_id: str) -> None:
    while True:
        try:
            await events.wait_exited(connection, container_id)
        except NotFound:
            return
        except ClientError:
            await asyncio.sleep(RETRY)
        else:
            return
