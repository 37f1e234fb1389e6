"""The bytes of processes: from the guest into fifos of the host, and back.

Whoever called the shim has made the fifos. The shim holds both ends of each, as containerd's do: while nobody
reads, a fifo fills and the process waits, and nobody is killed for want of a reader. When a stream has ended,
who reads the fifo reads its end, and what was not read by then stays there until the process is deleted: a
daemon that comes back reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from dataclasses import dataclass

from crib.host.streams import Sink, Source, widen
from crib.stubs.vm import guest_pb2 as guest
from crib.ttrpc.errors import CallFailed, PeerLost, TtrpcError
from crib.vm.shim.agent import AgentClient
from crib.wire.rpc_codes import Code

STDOUT = 1
STDERR = 2
LAST_WORDS = 0.5
"""Seconds without output after a process's end from which on it has none: what it left behind may hold its
pipes."""
FULL_TIME = 10.0
"""Seconds after a process's end for output that nobody takes on the host; its end is told then."""
_WRITE_BYTES = 64 << 10
_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """`exec_id` is empty for a container's first process."""

    container: str
    exec_id: str


def check_path(field: str, path: str) -> None:
    """CallFailed for what is no path of a fifo or file."""
    if path and not path.startswith("/"):
        raise CallFailed(
            Code.UNIMPLEMENTED, f"{field}: {path!r} is no path: a VM's output goes to fifos and files"
        )


def open_output(path: str) -> int:
    """Of a fifo both ends, so that it never breaks; a file is appended to. OSError."""
    is_fifo = stat.S_ISFIFO(os.stat(path).st_mode)
    flags = os.O_RDWR if is_fifo else os.O_WRONLY | os.O_APPEND
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if is_fifo:
        widen(fd)
    return fd


def hold_output(fd: int) -> int:
    """A reader of an open fifo, which reads nothing; -1 for what is no fifo, or is not open any more."""
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return -1
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1


class GuestOutput:
    """One stream of a process, to the end."""

    def __init__(self, agent: AgentClient, key: ProcessKey, stream: int, fd: int) -> None:
        self._agent = agent
        self._key = key
        self._stream = stream
        self._fd = fd
        self._sink = Sink(fd)
        self._held = -1
        """Of a fifo whose stream has ended: a reader, so that what nobody has read yet stays in it."""
        self._is_over = False
        self._has_ended = False
        self._patience: asyncio.Timeout | None = None

    async def carry(self) -> None:
        """Until the end of the stream."""
        offset = 0
        try:
            while True:
                said = await self._next(offset)
                offset += len(said.data)
                if said.data:
                    await self._sink.write(said.data)
                if said.eof or (self._has_ended and not said.data):
                    return
        except (TtrpcError, OSError):
            return  # the agent has gone, or whoever reads
        finally:
            if not self._is_over:
                self._held = hold_output(self._fd)
            self._sink.release()

    def end(self) -> None:
        """The process has ended: what it has said is there, or comes soon."""
        self._has_ended = True
        if self._patience is not None:
            self._patience.reschedule(0)

    def close(self) -> None:
        """What is still in the fifo is lost, unless somebody reads it. Safe to repeat."""
        self._is_over = True
        self._sink.release()
        held, self._held = self._held, -1
        if held >= 0:
            os.close(held)

    async def _next(self, offset: int) -> guest.ReadResponse:
        request = guest.ReadRequest(
            id=self._key.container, exec_id=self._key.exec_id, stream=self._stream, offset=offset
        )
        if not self._has_ended:
            try:
                async with asyncio.timeout(None) as self._patience:
                    return await self._agent.read(request)
            except TimeoutError:
                pass
            finally:
                self._patience = None
        request.wait = round(LAST_WORDS * _MILLISECONDS)
        return await self._agent.read(request)


class GuestInput:
    """The standard input of a process."""

    def __init__(self, agent: AgentClient, key: ProcessKey, path: str) -> None:
        """OSError if there is no such fifo."""
        self._agent = agent
        self._key = key
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            os.close(reader)
            raise
        self._source = Source(reader)

    async def carry(self) -> bool:
        """Until all who write have let go of it: True, for the process to read an end."""
        try:
            while data := await self._source.read():
                await self._give(memoryview(data))
        except (TtrpcError, OSError):
            return False  # nobody reads it any more
        finally:
            self.close()
        return True

    def let_go(self) -> None:
        """It ends when nobody else holds it. Safe to repeat."""
        writer, self._writer = self._writer, -1
        if writer >= 0:
            os.close(writer)

    def close(self) -> None:
        """Safe to repeat."""
        self.let_go()
        self._source.close()

    async def _give(self, left: memoryview) -> None:
        while left:
            request = guest.WriteRequest(
                id=self._key.container, exec_id=self._key.exec_id, data=bytes(left[:_WRITE_BYTES])
            )
            left = left[await self._agent.write(request) :]


async def drained(carried: list[asyncio.Task[None]], outputs: list[GuestOutput]) -> None:
    """Returns when all output of a process that has ended is in the fifos, or nobody takes it."""
    for output in outputs:
        output.end()
    if carried:
        with contextlib.suppress(PeerLost):
            await asyncio.wait(carried, timeout=FULL_TIME)
