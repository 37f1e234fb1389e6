"""Lines of a container's log as the CRI has them (KEP kubelet-cri-logging), and joining partial ones.

    2016-10-06T00:17:09.669794202Z stdout F The content of the line
    2016-10-06T00:17:10.113242941Z stderr P the first part of a long li

A line longer than the writer's buffer is cut into parts tagged P, the last one F. `LineJoiner` takes bytes
as they come and gives whole lines, `encode_output` makes entries of a container's output; neither does I/O.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

_LINE = re.compile(rb"(\S+) (stdout|stderr) ([A-Z](?::[A-Z])*) ?(.*)", re.DOTALL)
_TIME = re.compile(rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
MAX_PART = 8 << 10
"""Bytes of one entry's content at most, as conmon has it: readers of logs have buffers for a line."""
MAX_PENDING = 16 << 20
"""Maximum bytes of one joined line; the rest becomes a line of its own."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One entry. `at` is nanoseconds since the epoch.

    `partial` says that the line continues in the next entry.
    """

    at: int
    stream: str
    partial: bool
    content: bytes

    @property
    def text(self) -> str:
        """The content as UTF-8; bytes that are none are replaced."""
        return self.content.decode("utf-8", "replace")


def parse_time(text: bytes) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; ValueError when it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is not an RFC 3339 time")
    seconds = calendar.timegm(tuple(int(match[part]) for part in range(1, 7)))
    zone = match[8]
    if zone != b"Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds += offset if zone.startswith(b"-") else -offset
    return seconds * 1_000_000_000 + int((match[7] or b"0").ljust(9, b"0"))


def parse_line(line: bytes) -> LogLine:
    """One entry without its newline; ValueError when it is not in the CRI's format."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"{line[:80]!r} is not a line of a CRI log")
    tags = match[3].split(b":")
    return LogLine(parse_time(match[1]), match[2].decode(), b"P" in tags, match[4])


def encode_time(at: int) -> bytes:
    """Nanoseconds since the epoch as the CRI's logs have them, in UTC."""
    seconds, rest = divmod(at, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z".encode()


def encode_output(data: bytes, stream: str, at: int) -> bytes:
    """Entries for what a container wrote to one stream, in one read at the time `at`.

    What ends without a newline becomes a part at once, as nobody knows when the rest comes.
    """
    head = encode_time(at) + b" " + stream.encode()
    full, part = head + b" F ", head + b" P "
    if len(data) > MAX_PART:
        return b"".join(_cut(data, full, part))
    return _whole(data, full, part)


def _cut(data: bytes, full: bytes, part: bytes) -> Iterator[bytes]:
    """The same in pieces: as many whole lines as MAX_PART bytes have, or a part of one."""
    begin = 0
    while begin < len(data):
        end = data.rfind(b"\n", begin, begin + MAX_PART + 1) + 1
        if end == 0:
            end = begin + MAX_PART
        yield _whole(data[begin:end], full, part)
        begin = end


def _whole(data: bytes, full: bytes, part: bytes) -> bytes:
    lines, newline, rest = data.rpartition(b"\n")
    entries = full + lines.replace(b"\n", b"\n" + full) + b"\n" if newline else b""
    return entries + part + rest + b"\n" if rest else entries


class LineJoiner:
    """Bytes of a log file in, whole lines out; each stream's parts are joined apart from the other's."""

    def __init__(self) -> None:
        self._rest = b""
        self._pending: dict[str, list[LogLine]] = {}
        self._sizes: dict[str, int] = {}

    def receive(self, data: bytes) -> Iterator[LogLine]:
        """Lines that `data` completes. Lines that are no log entries are left out."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                entry = parse_line(line)
            except ValueError:
                continue
            whole = self._join(entry)
            if whole is not None:
                yield whole

    def next_file(self) -> Iterator[LogLine]:
        """The log continues in another file: parts of a line are joined across files, bytes of an entry are
        not.

        An entry whose newline was never written (a full disk) counts as complete.
        """
        yield from self.receive(b"\n" if self._rest else b"")

    def finish(self) -> Iterator[LogLine]:
        """What is left when the log has ended: lines whose last part never came, marked partial."""
        yield from self.next_file()
        for stream in sorted(self._pending):
            parts = self._pending[stream]
            if parts:
                yield LogLine(parts[0].at, stream, True, b"".join(part.content for part in parts))
        self._pending.clear()
        self._sizes.clear()

    def _join(self, entry: LogLine) -> LogLine | None:
        parts = self._pending.setdefault(entry.stream, [])
        size = self._sizes.get(entry.stream, 0) + len(entry.content)
        parts.append(entry)
        if entry.partial and size < MAX_PENDING:
            self._sizes[entry.stream] = size
            return None
        self._pending[entry.stream] = []
        self._sizes[entry.stream] = 0
        return LogLine(parts[0].at, entry.stream, False, b"".join(part.content for part in parts))
