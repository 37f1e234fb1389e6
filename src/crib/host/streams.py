"""Ends of pipes and sockets as streams on the event loop, without a thread.

Each has at most one task that reads and one that writes.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import socket
import termios
from collections.abc import Callable

CHUNK = 256 << 10
"""Bytes of one read at most."""
PIPE_BYTES = 256 << 10
"""What a pipe holds (pipe(7)): with the usual 64 KiB both sides would wake each other four times as often."""
LAST_WORDS = 0.1
"""Seconds after the writer's end in which its children, who hold the other end, may still be heard."""
_REST = 256 << 10
"""Maximum bytes that are read in that time beyond those available: a writer may never stop."""
_TURN = 1 << 20
"""Bytes after which the loop's others get their turn: a flood never lets its reader wait."""
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; the fcntl module has the name only where the C library had it


class DescriptorWait:
    """Waits until a descriptor can be read (or written). Who closes the descriptor calls `wake` before."""

    def __init__(self, fd: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        self._fd = fd
        self._add = add
        self._remove = remove
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, timeout: float | None = None) -> bool:
        """False after `timeout` seconds; otherwise it may be ready, or was woken."""
        if self._waiting is not None:
            raise RuntimeError(f"two tasks wait for descriptor {self._fd}")
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        self._add(self._fd, self.wake)
        try:
            if timeout is None:
                await waiting
            else:
                async with asyncio.timeout(timeout):
                    await waiting
        except TimeoutError:
            return False
        finally:
            if self._waiting is waiting:
                self.wake()
        return True

    def wake(self) -> None:
        """End the waiting, if anybody waits; the loop knows nothing of the descriptor then."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._remove(self._fd)
            if not waiting.done():
                waiting.set_result(None)


class Source:
    """The reading end. If it is `owned`, the descriptor is closed at the end of what comes, or by `close`."""

    def __init__(self, fd: int, *, owned: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self._fd = fd
        self._owned = owned
        self._left: int | None = None
        self._until = 0.0
        self._turn = 0
        self._ready = DescriptorWait(fd, loop.add_reader, loop.remove_reader)
        os.set_blocking(fd, False)

    async def read(self) -> bytes:
        """The available bytes, at most CHUNK; waits for some. Empty at the end. Closed after an OSError."""
        if self._turn >= _TURN:
            self._turn = 0
            await asyncio.sleep(0)
        while self._fd >= 0 and self._left != 0:
            try:
                data = self._take(CHUNK if self._left is None else min(CHUNK, self._left))
            except BlockingIOError:
                self._turn = 0
                if not await self._more():
                    break
                continue
            except BaseException:
                self.close()
                raise
            if not data:
                break
            self._turn += len(data)
            if self._left is not None:
                self._left -= len(data)
            return data
        self.close()
        return b""

    def end(self) -> None:
        """The writer has ended: the rest is available or comes soon, even if others hold the other end."""
        if self._fd >= 0:
            self._left = self._rest()
            self._until = asyncio.get_running_loop().time() + LAST_WORDS
            self._ready.wake()

    def close(self) -> None:
        """Close; a task that reads gets the end. Safe to repeat."""
        self._ready.wake()
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._owned:
            os.close(fd)

    def _take(self, size: int) -> bytes:
        return os.read(self._fd, size)

    def _rest(self) -> int:
        return unread_bytes(self._fd) + _REST

    async def _more(self) -> bool:
        if self._left is None:
            return await self._ready.wait()
        left = self._until - asyncio.get_running_loop().time()
        return left > 0 and await self._ready.wait(left)


class Sink:
    """The writing end. Closed when the other side reads no more, or with `close`, if it is `owned`."""

    def __init__(self, fd: int, *, owned: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self._fd = fd
        self._owned = owned
        self._ready = DescriptorWait(fd, loop.add_writer, loop.remove_writer)
        os.set_blocking(fd, False)

    async def write(self, data: bytes | memoryview) -> None:
        """Return when the kernel has all of it. ConnectionError if the reader has gone, or after `close`."""
        left = memoryview(data)
        while left:
            if self._fd < 0:
                raise BrokenPipeError("it is closed")
            try:
                left = left[self._put(left) :]
            except BlockingIOError:
                await self._ready.wait()
            except OSError:
                self.release()
                raise

    async def close(self) -> None:
        """The other side reads an end. Safe to repeat."""
        self.release()

    def release(self) -> None:
        """Let go, without waiting; a task that writes gets BrokenPipeError. Safe to repeat."""
        self._ready.wake()
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._owned:
            os.close(fd)

    def _put(self, data: memoryview) -> int:
        return os.write(self._fd, data)


class SocketStream:
    """A connected stream socket, both ways; it is let go of when both directions have ended."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._source = Source(connected.fileno(), owned=False)
        self._sink = Sink(connected.fileno(), owned=False)
        self._ends = 0

    async def read(self) -> bytes:
        """The available bytes; empty at the end. ConnectionError if the peer broke the connection."""
        data = await self._source.read()
        if not data:
            self._ended(1)
        return data

    async def write(self, data: bytes) -> None:
        """Returns when the kernel has it all; ConnectionError when it goes nowhere."""
        await self._sink.write(data)

    async def close(self) -> None:
        """Nothing more is sent: the peer reads an end, and may still send."""
        if not self._ends & 2:
            self._sink.release()
            with contextlib.suppress(OSError):  # not connected any more
                self._socket.shutdown(socket.SHUT_WR)
            self._ended(2)

    def abort(self) -> None:
        """Close both directions at once; waiting tasks end. Safe to repeat."""
        self._source.close()
        self._sink.release()
        self._socket.close()

    def _ended(self, direction: int) -> None:
        self._ends |= direction
        if self._ends == 3:
            self.abort()


def make_pipe() -> tuple[int, int]:
    """Reading and writing end of a new pipe of PIPE_BYTES, or of the usual size where that is not allowed."""
    ends = os.pipe2(os.O_CLOEXEC)
    widen(ends[1])
    return ends


def widen(fd: int) -> None:
    """Have the pipe at one end of which this is hold PIPE_BYTES, where that is allowed."""
    with contextlib.suppress(OSError):  # /proc/sys/fs/pipe-max-size, or the user's pages are used up
        fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)


def unread_bytes(fd: int) -> int:
    """What waits in a pipe, asked at either end (FIONREAD)."""
    waiting = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, waiting)
    return waiting[0]
