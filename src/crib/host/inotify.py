"""Changes in directories as they happen (inotify(7)), read by the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from crib.host import libc

CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
OVERFLOW = 0x4000
IGNORED = 0x8000
_ONLYDIR = 0x0100_0000

WRITTEN = CLOSE_WRITE | MOVED_TO
CHANGED = WRITTEN | MOVED_FROM | DELETE

_EVENT = struct.Struct("=iIII")
_BUFFER = 65536


@dataclass(frozen=True, slots=True)
class Event:
    """One change: `name` in `directory`, with the kernel's `mask`.

    When `lost` (the kernel's queue overflowed, or the directory itself went away) changes may have been
    missed: look at the directory itself.
    """

    directory: str
    name: str
    mask: int

    @property
    def lost(self) -> bool:
        """Whether what follows from this event is: list the directory anew."""
        return bool(self.mask & (OVERFLOW | IGNORED | DELETE_SELF | MOVE_SELF))


class DirectoryWatcher:
    """Watches directories from its making on; iterate over it for events, from one task at a time.

    Files that were there before give no events: make the watcher first, then list the directory. The kernel's
    own queue (16,384 events by default) is the only buffer; when it overflows an event says so.
    """

    def __init__(self, directories: Sequence[str], mask: int = CHANGED) -> None:
        self._fd = libc.inotify_init()
        self._directories: dict[int, str] = {}
        self._pending: list[Event] = []
        self._waiting: asyncio.Future[None] | None = None
        try:
            for directory in directories:
                self.add(directory, mask)
        except BaseException:
            self.close()
            raise

    def add(self, directory: str, mask: int = CHANGED) -> None:
        """Watch one more directory; OSError when it is missing or not a directory."""
        watch = libc.inotify_add_watch(self._fd, directory, mask | DELETE_SELF | MOVE_SELF | _ONLYDIR)
        self._directories[watch] = directory

    async def next_events(self) -> list[Event]:
        """The events that have come, at least one; waits for it. Empty only after `close`."""
        loop = asyncio.get_running_loop()
        while self._fd >= 0:
            if events := self._read():
                return events
            self._waiting = loop.create_future()
            loop.add_reader(self._fd, self._wake)
            try:
                await self._waiting
            finally:
                self._waiting = None
                if self._fd >= 0:
                    loop.remove_reader(self._fd)
        return []

    def close(self) -> None:
        """Stop watching; iteration ends."""
        if self._fd >= 0:
            if self._waiting is not None:
                self._waiting.get_loop().remove_reader(self._fd)
                self._wake()
            os.close(self._fd)
            self._fd = -1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self._pending:
            self._pending = await self.next_events()
            self._pending.reverse()
        if not self._pending:
            raise StopAsyncIteration
        return self._pending.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _read(self) -> list[Event]:
        try:
            data = os.read(self._fd, _BUFFER)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return []
            raise
        events = []
        offset = 0
        while offset < len(data):
            watch, mask, _cookie, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
            offset += length
            events.append(Event(self._directories.get(watch, ""), name, mask))
            if mask & IGNORED:
                self._directories.pop(watch, None)
        return events
