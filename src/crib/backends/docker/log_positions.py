"""How far a container's output has been copied to its log, kept where `kill -9` does not reach.

The Engine keeps its copy, and gives it again from any time on. So the time of each stream's last message is
written down, and how many messages had that time, before they are appended; beside that the size of the
log before. The next daemon sees from these whether the append had been done, in part, or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from crib.host.files import atomic_write
from crib.wire.crilog import encode_output
from crib.wire.docker_streams import LogMessage

_LIMIT = 65536
MARGIN = 1_000_000_000
"""ns before the last message of a stream in which one of the other may still come to the Engine's copy."""


@dataclass(frozen=True, slots=True)
class LogPosition:
    """By stream: the time of the last message that is in the log, and how many of that time are."""

    streams: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def after(self, messages: Iterable[LogMessage]) -> Self:
        """With these behind it."""
        streams = dict(self.streams)
        for message in messages:
            at, count = streams.get(message.stream, (0, 0))
            streams[message.stream] = (message.at, count + 1 if message.at == at else 1)
        return type(self)(streams)

    @property
    def since(self) -> int:
        """The earliest time, in ns, of which a message may be missing; 0 for all."""
        times = [at for at, _ in self.streams.values()]
        return max(min(times), max(times) - MARGIN) if len(times) > 1 else max(0, *times, MARGIN) - MARGIN

    @property
    def query(self) -> str:
        """The same as the Engine takes it: seconds and nanoseconds."""
        seconds, rest = divmod(self.since, 1_000_000_000)
        return f"{seconds}.{rest:09d}" if self.since else "0"


class Resumption:
    """Leaves out what a log has already, after the Engine was asked again from `LogPosition.since` on."""

    def __init__(self, position: LogPosition) -> None:
        self._known = dict(position.streams)
        self._seen: dict[str, int] = {}

    def is_new(self, message: LogMessage) -> bool:
        """Whether it is not in the log. To be asked of each in turn."""
        known = self._known.get(message.stream)
        if known is None:
            return True
        at, count = known
        if message.at == at:
            self._seen[message.stream] = seen = self._seen.get(message.stream, 0) + 1
            return seen > count
        if message.at < at:
            return False
        del self._known[message.stream]  # from here on all are: a clock that is set back repeats no message
        return True


class LogBatch:
    """Messages on their way into the log. See `log_files.Entries`; its calls block."""

    def __init__(self, path: str, before: LogPosition, messages: tuple[LogMessage, ...]) -> None:
        """`path` is of the file with the position."""
        self._path = path
        self._before = before
        self.after = before.after(messages)
        self._entries = b"".join(encode_output(one.content, one.stream, one.at) for one in messages)

    def put_into(self, log: int) -> None:
        found = os.fstat(log)
        document = {
            "inode": found.st_ino,
            "size": found.st_size,
            "length": len(self._entries),
            "before": self._before.streams,
            "after": self.after.streams,
        }
        # A bundle that is gone is of a container that is being removed.
        with contextlib.suppress(FileNotFoundError):
            atomic_write(self._path, json.dumps(document).encode(), 0o600)
        _write_whole(log, self._entries, found.st_size)

    def finish(self, log: int) -> None:
        """Nothing: what an earlier daemon has left is told by `read_position`."""


class LogStart:
    """Finds out where an earlier daemon has ended. See `log_files.Entries`; its calls block."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.position = LogPosition()

    def put_into(self, log: int) -> None:
        self.finish(log)

    def finish(self, log: int) -> None:
        self.position = read_position(self._path, log)


def read_position(path: str, log: int) -> LogPosition:
    """How far the open log has come. What was appended in part only is taken back. Blocks."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(_LIMIT))
        inode, size, length = (int(document[key]) for key in ("inode", "size", "length"))
        before, after = (
            LogPosition({name: (int(at), int(count)) for name, (at, count) in document[key].items()})
            for key in ("before", "after")
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return LogPosition()
    found = os.fstat(log)
    if found.st_ino != inode or found.st_size >= size + length:
        return after
    if found.st_size > size:
        os.ftruncate(log, size)
    return before


def _write_whole(log: int, entries: bytes, before: int) -> None:
    """Whole entries or nothing of one: where there is no room, the log ends with the last that is whole."""
    left = memoryview(entries)
    try:
        while left:
            left = left[os.write(log, left) :]
    except OSError:
        written = len(entries) - len(left)
        os.ftruncate(log, before + entries.rfind(b"\n", 0, written) + 1)
        raise
