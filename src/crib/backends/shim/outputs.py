"""What a container's first process writes: read from its fifos, shown to who is attached, put into its log.

One read at a time for each container, and a few for all of them, so a flood of one holds up nobody. A log
that is slow to take what was read no longer counts among these few: its container waits alone, once its fifo
is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from crib.backends.shim.chunks import Chunks
from crib.backends.streams.attach_sessions import AttachSession
from crib.backends.streams.log_files import LogFile
from crib.backends.streams.logs import LOG_TIME, at_rest
from crib.host.streams import DescriptorWait
from crib.model.container import ContainerRecord
from crib.tasks.keeper import HANDS
from crib.tasks.lanes import stand_back

_log = logging.getLogger(__name__)

TURNS = 4
"""Reads that are under way at a time, for all containers."""
END_TIME = 2.0
"""Seconds after a container's end in which all that it wrote must have come through its shim."""


@dataclass(frozen=True, slots=True)
class OpenFifo:
    """Our end of one stream's."""

    stream: str
    path: str
    fd: int


class Turn:
    """One of the few reads. Whoever waits for a slow log ends it early; safe to repeat."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free: asyncio.Semaphore | None = free

    def end(self) -> None:
        free, self._free = self._free, None
        if free is not None:
            free.release()


class Outputs:
    """Of one container. `log` is None where nothing is kept."""

    def __init__(
        self, record: ContainerRecord, log: LogFile | None, chunks: Chunks, turns: asyncio.Semaphore
    ) -> None:
        self.record = record
        self.log = log
        self.sessions: set[AttachSession] = set()
        self._chunks = chunks
        self._turns = turns
        self._gate = asyncio.Lock()
        """Held from before a read until what was read is in the log."""
        self._waits: list[DescriptorWait] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._is_released = False

    def begin(self, fifos: Sequence[OpenFifo], before: asyncio.Task[None] | None = None) -> None:
        """Read from these, whose descriptors are ours from now on, as soon as `before` is done."""
        if before is not None:
            self._tasks.append(before)
        for fifo in fifos:
            self._tasks.append(HANDS.part(f"{fifo.stream} of", self._carry(fifo, before), self.record.id))

    @property
    def has_ended(self) -> bool:
        """Nothing more comes."""
        return all(task.done() for task in self._tasks)

    def at_rest(self, what: str) -> AbstractAsyncContextManager[None]:
        """While this lasts nothing is read or written. Overdue when the log does not take what was read."""
        return at_rest(self._gate, what, self.record.log_path)

    async def drain(self) -> None:
        """The container has ended: returns when all is in the log, or after a bound."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_TIME)
        self.end_sessions()

    async def release(self) -> None:
        """Let go. What is on its way into a log that does not answer is let go of as soon as that does."""
        self._is_released = True
        for wait in self._waits:
            wait.wake()
        closing = HANDS.part("end of a log", self._close(), self.record.id)
        _, late = await asyncio.wait([closing], timeout=LOG_TIME)
        if late:
            _log.warning("what container %s wrote last is lost: its log takes no write", self.record.id)
        self.end_sessions()

    def end_sessions(self) -> None:
        """Nothing more comes for who is attached."""
        for session in tuple(self.sessions):
            session.end()

    async def _close(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self.log is not None:
            await self.log.close()

    async def _carry(self, fifo: OpenFifo, before: asyncio.Task[None] | None) -> None:
        """To the end of the stream, of which a missing fifo is the sign."""
        loop = asyncio.get_running_loop()
        wait = DescriptorWait(fifo.fd, loop.add_reader, loop.remove_reader)
        self._waits.append(wait)
        try:
            await stand_back()
            if before is not None:
                await asyncio.wait([before])
            while not self._is_released:
                await wait.wait()
                async with self._gate:
                    if self._is_released or not await self._one_read(fifo):
                        break
        finally:
            os.close(fifo.fd)
        if not self._is_released:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fifo.path)
        if sum(not task.done() for task in self._tasks) <= 1:  # this one
            self.end_sessions()

    async def _one_read(self, fifo: OpenFifo) -> bool:
        """False at the end."""
        await self._turns.acquire()
        turn = Turn(self._turns)
        try:
            chunk = self._chunks.take()
            data = chunk.fill(fifo.fd, self.record.id, fifo.stream)
            for session in tuple(self.sessions):
                session.take(fifo.stream, data)
            if data and self.log is not None:
                await self.log.append(chunk, turn.end)
            self._chunks.give(chunk)  # not where that was cut off: the next daemon goes on with it
            return bool(data)
        finally:
            turn.end()
