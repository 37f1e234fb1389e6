"""The two ends of bytes: what a process or a connection gives, and what it takes."""

from __future__ import annotations

import os

from crib.vm.guest.errors import FAILED_PRECONDITION, OUT_OF_RANGE, Failure
from crib.vm.guest.loop import READ, WRITE, Later, Loop, either

TYPE_CHECKING = False
if TYPE_CHECKING:
    from crib.vm.guest.loop import Job

HELD_BYTES = 256 << 10
"""Of one stream, while the host has not asked further."""
MOST_BYTES = 64 << 10
"""Of one answer."""


class Source:
    """What comes out of a descriptor, held until the host has it."""

    def __init__(self, loop: Loop, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._loop = loop
        self._descriptor = descriptor
        self._held = bytearray()
        self._begin = 0
        self._is_read = False
        self._over = False
        self._arrival = Later()
        self._resume()

    def read(self, offset: int, most: int, wait: Later | None) -> Job:
        """Bytes from `offset` on, and whether they are the last. Waits until there is one, or for `wait`."""
        end = self._begin + len(self._held)
        if not self._begin <= offset <= end:
            held = f"{self._begin} to {end}"
            raise Failure(OUT_OF_RANGE, f"offset: {offset} was asked for, and {held} is what the agent holds")
        if offset > self._begin:
            del self._held[: offset - self._begin]
            self._begin = offset
            self._resume()
        while not self._held and not self._over and not (wait is not None and wait.is_set):
            yield either(self._arrival, wait)
        data = bytes(self._held[: min(most or MOST_BYTES, MOST_BYTES)])
        return {"data": data, "eof": self._over and len(data) == len(self._held)}

    def close(self) -> None:
        """Nothing more comes. What is held can still be read."""
        if self._over:
            return
        self._over = True
        if self._is_read:
            self._loop.unwatch(self._descriptor)
        os.close(self._descriptor)
        self._told()

    def _resume(self) -> None:
        if not self._is_read and not self._over and len(self._held) < HELD_BYTES:
            self._is_read = True
            self._loop.watch(self._descriptor, READ, self._readable)

    def _readable(self, _events: int) -> None:
        try:
            data = os.read(self._descriptor, min(MOST_BYTES, HELD_BYTES - len(self._held)))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # EIO: the last holder of a terminal's other end is gone
            data = b""
        if not data:
            self.close()
            return
        self._held += data
        if len(self._held) >= HELD_BYTES:
            self._loop.unwatch(self._descriptor)
            self._is_read = False
        self._told()

    def _told(self) -> None:
        arrival, self._arrival = self._arrival, Later()
        arrival.set()


class Sink:
    """Where bytes go. `close` ends it for the reader."""

    def __init__(self, loop: Loop, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._loop = loop
        self._descriptor = descriptor
        self._room = Later()
        self._is_busy = False
        self._over = False

    def write(self, data: bytes) -> Job:
        """How many of the bytes were taken, at least one of some. Waits until there is room."""
        while self._is_busy:  # another call writes: bytes keep their order
            yield self._room
        if not data:
            return 0
        while not self._over:
            try:
                return os.write(self._descriptor, data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                break
            self._is_busy = True
            self._loop.watch(self._descriptor, WRITE, lambda _: self._freed())
            yield self._room
        raise Failure(FAILED_PRECONDITION, "data: nobody reads it any more")

    def close(self) -> None:
        """No more bytes. Safe to repeat."""
        if self._over:
            return
        self._over = True
        self._loop.unwatch(self._descriptor)
        os.close(self._descriptor)
        self._freed()

    def _freed(self) -> None:
        self._is_busy = False
        if not self._over:
            self._loop.unwatch(self._descriptor)
        room, self._room = self._room, Later()
        room.set()
