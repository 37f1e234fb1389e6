"""Logs of containers: files that a pod may exchange, on file systems that may not answer.

So whatever touches one runs in a thread for files of others, within a bound, and owned by the pod: nobody but
the pod waits for its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from crib.backends.failures import trying
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.container import ContainerRecord, ContainerState
from crib.model.ids import ContainerId
from crib.model.sandbox import SandboxRecord
from crib.tasks.keeper import HANDS
from crib.wire.crilog import parse_line

_log = logging.getLogger(__name__)
T = TypeVar("T")

LOG_TIME = 2.0
"""Seconds that a look at a log, or a change of its name, may take."""
_LONGEST_WORDS = 4096
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = _PLACE | os.O_DIRECTORY

REPLAY_LIMIT = 1 << 20
"""Bytes of output that are replayed at most, whatever is asked for."""
_FIRST_WINDOW = 64 << 10
_WINDOW_LIMIT = 64 << 20
"""Bytes of a log that are looked at: each line of it has some forty bytes beside its output."""

MOST_FILES = 20
"""Of one pod that are named in a report."""
MOST_ENTRIES = 10_000
"""Of one pod's directory that are looked at."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A line, or a part of one, with its newline if that was written."""

    stream: str
    content: bytes


@contextlib.asynccontextmanager
async def at_rest(gate: asyncio.Lock, what: str, path: str) -> AsyncIterator[None]:
    """While this lasts nothing is written to the log, as whoever does holds `gate`. Overdue if not."""
    try:
        async with asyncio.timeout(LOG_TIME):
            await gate.acquire()
    except TimeoutError:
        raise Overdue(f"{what} the log {path}: takes more than {LOG_TIME:g} s to take a write") from None
    try:
        yield
    finally:
        gate.release()


def latest_output(log: int, size: int, most: int, known: Mapping[str, int]) -> dict[str, bytes]:
    """The last `most` bytes, by stream, that lie before `size` in an open log; at best whole lines.

    The last `known` bytes of each stream are left out: they have arrived another way.
    """
    most = min(most, REPLAY_LIMIT)
    wanted = most + sum(known.values())
    window = _FIRST_WINDOW + wanted
    while True:
        start = max(size - window, 0)
        pieces = _pieces(os.pread(log, size - start, start), whole=start == 0)
        if start == 0 or window >= _WINDOW_LIMIT or sum(len(one.content) for one in pieces) >= wanted:
            break
        window *= 2
    left = dict(known)
    parts: dict[str, list[bytes]] = {}
    room = most
    for piece in reversed(pieces):
        cut = min(left.get(piece.stream, 0), len(piece.content))
        left[piece.stream] = left.get(piece.stream, 0) - cut
        content = piece.content[: len(piece.content) - cut]
        if len(content) > room:
            if not parts:  # a line longer than all that is wanted
                parts[piece.stream] = [content[len(content) - room :]]
            break
        if content:
            parts.setdefault(piece.stream, []).append(content)
            room -= len(content)
    return {stream: b"".join(reversed(found)) for stream, found in parts.items()}


def _pieces(data: bytes, *, whole: bool) -> list[_Piece]:
    lines = data.split(b"\n")[0 if whole else 1 : -1]
    found = []
    for line in lines:
        try:
            entry = parse_line(line)
        except ValueError:
            continue
        found.append(_Piece(entry.stream, entry.content + (b"" if entry.partial else b"\n")))
    return found


def log_job(what: str, path: str, pod: str, late: Callable[[], None] = lambda: None) -> Job:
    """`what` is done with the log at `path`, such as `reading`."""
    return Job(f"{what} the log {path}", owner=pod, limit=LOG_TIME, late=late)


def open_log(path: str) -> io.FileIO:
    """Open it to be read; OSError (EINVAL) for anything but a regular file, which is not opened. Blocks."""
    place = os.open(path, _PLACE)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        return io.FileIO(os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    finally:
        os.close(place)


async def read_words(path: str, pod: str) -> bytes:
    """A log that may hold only a few last words; empty if it is longer, or cannot be read."""
    try:
        return await FOREIGN.run(log_job("reading", path, pod), _words, path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        _log.warning("the last words of a container are not known: %s: %s", path, error)
        return b""


def _words(path: str) -> bytes:
    with open_log(path) as file:
        data = file.read(_LONGEST_WORDS + 1) or b""
    return data if len(data) <= _LONGEST_WORDS else b""


class OpenLog:
    """A log that is read for a while. Close it when done; OSError (`Overdue`) from all of it."""

    def __init__(self, path: str, pod: str) -> None:
        self._path = path
        self._pod = pod
        self._file: io.FileIO | None = None
        self._is_stuck = False

    async def open(self) -> None:
        await self._ask("opening", self._open)

    async def size(self) -> int:
        """Bytes that it has now."""
        return await self._ask("looking at", lambda: os.fstat(self._there().fileno()).st_size)

    async def latest(self, size: int, most: int, known: dict[str, int]) -> dict[str, bytes]:
        """See `latest_output`."""
        return await self._ask("reading", lambda: latest_output(self._there().fileno(), size, most, known))

    async def close(self) -> None:
        """Safe to repeat. A close may wait for the file system too (a flush of FUSE and NFS)."""
        if not self._is_stuck:  # else the late thread closes it
            with contextlib.suppress(Overdue):
                await self._ask("closing", self._close)

    async def _ask(self, what: str, work: Callable[[], T]) -> T:
        job = log_job(what, self._path, self._pod, late=self._end_late)
        try:
            return await FOREIGN.run(job, work)
        except Overdue:
            self._is_stuck = True
            raise

    def _end_late(self) -> None:
        self._is_stuck = False
        clear_away(f"closing the log {self._path}", self.close())

    def _open(self) -> None:
        self._file = open_log(self._path)

    def _there(self) -> io.FileIO:
        if self._file is None:
            raise OSError(errno.EBADF, "it is not open", self._path)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


def clear_away(what: str, work: Coroutine[object, object, object]) -> None:
    """Do it in the background; a failure is logged, as nobody waits for it."""
    HANDS.part(what, _logged(what, work))


async def _logged(what: str, work: Coroutine[object, object, object]) -> None:
    try:
        await work
    except Exception as error:
        _log.warning("%s, which came too late: %s", what, error)


class ContainerLogFiles:
    """See ContainerLogs: what needs nothing but the files, whoever writes them."""

    async def sizes(self, records: Sequence[ContainerRecord]) -> Mapping[ContainerId, int]:
        """See ContainerLogs. The records are of one pod."""
        logs = {row.id: row.log_path for row in records if row.log_path}
        if not logs:
            return {}
        job = log_job("measuring", next(iter(logs.values())), records[0].sandbox_id)
        try:
            return await FOREIGN.run(job, _sizes, logs)
        except OSError as error:
            _log.warning("the sizes of the logs of pod %s are not known: %s", records[0].sandbox_id, error)
            return {}

    async def odd(
        self, sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
    ) -> Sequence[tuple[str, str]]:
        """See ContainerLogs."""
        with trying("looking at the logs"):
            return await FOREIGN.run("looking at the logs", odd_logs, tuple(sandboxes), tuple(containers))


def _sizes(logs: Mapping[ContainerId, str]) -> dict[ContainerId, int]:
    listed: dict[str, list[str]] = {}
    found = {}
    for key, path in logs.items():
        directory = os.path.dirname(path)
        if directory not in listed:
            listed[directory] = _listed(directory, directories=False)
        own = [one for one in listed[directory] if one == path or one.startswith(f"{path}.")]
        found[key] = sum(map(_size, own))
    return found


def _size(path: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(path).st_blocks * 512
    return 0


def odd_logs(
    sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
) -> list[tuple[str, str]]:
    """Paths with what is odd about them. Blocks as the file system of the logs does."""
    found: list[tuple[str, str]] = []
    known: set[str] = set()
    for row in containers:
        if not row.log_path:
            continue
        known.add(row.log_path)
        if row.state is not ContainerState.RUNNING or os.path.lexists(row.log_path):
            continue
        what = "file" if os.path.isdir(os.path.dirname(row.log_path)) else "directory"
        found.append((row.log_path, f"its {what} is gone: what container {row.id} writes is lost"))
    for sandbox in sandboxes:
        if directory := sandbox.config.log_directory:
            odd = [path for path in _files(directory) if not _is_log_of(path, known)]
            found += [(path, f"is not a log of a container of pod {sandbox.id}") for path in odd[:MOST_FILES]]
            if len(odd) > MOST_FILES:
                found.append((directory, f"has {len(odd) - MOST_FILES} more that are no container's log"))
    return found


def _files(top: str) -> Iterator[str]:
    """Files below a pod's directory of logs, one level of directories included, as a kubelet lays them."""
    for directory in (top, *_listed(top, directories=True)):
        yield from _listed(directory, directories=False)


def _listed(directory: str, *, directories: bool) -> list[str]:
    found: list[str] = []
    try:
        with os.scandir(directory) as entries:
            for number, entry in enumerate(entries):
                if number == MOST_ENTRIES:
                    break
                if entry.is_dir(follow_symlinks=False) == directories:
                    found.append(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found)


def _is_log_of(path: str, known: set[str]) -> bool:
    """Whether it is a log on record, or one that was set aside by a rotation: LOG.TIME, LOG.TIME.gz."""
    directory, _, name = path.rpartition("/")
    parts = name.split(".")
    return any(f"{directory}/{'.'.join(parts[:end])}" in known for end in range(1, len(parts) + 1))


async def remove_unused(path: str, pod: str) -> None:
    """Remove an empty file; anything else stays. What fails, or takes too long, is logged and is no error."""
    try:
        await FOREIGN.run(log_job("removing", path, pod), _remove_empty, path)
    except OSError as error:
        _log.warning("the unused log %s stays: %s", path, error)


def _remove_empty(path: str) -> None:
    """The pod may write to its log directory, so none of its links is followed."""
    directory, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError):
        parent = os.open(directory, _DIRECTORY)
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_size == 0 and found.st_nlink == 1:
                os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)
