"""What was read of a container's output and is not in its log yet, kept where `kill -9` does not reach it.

A fifo gives its bytes once. So they are read into a file of the state directory (a tmpfs) that is mapped into
memory: the kernel copies them there itself, and a daemon that is killed leaves them behind. Beside them
stands how far they have come. The next daemon finishes what it finds, with nothing written twice and nothing
left out, also of a write that was cut off in the middle.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import secrets
import struct
import time
from collections.abc import Iterator

from crib.host.streams import unread_bytes
from crib.model.ids import ContainerId
from crib.wire.crilog import encode_output

_log = logging.getLogger(__name__)

CHUNK_BYTES = 64 << 10
"""Of one read; as much as a fifo holds."""
_HEAD_BYTES = 4096
_HEAD = struct.Struct("<IqQQ64s8s16s")
"""Length, time, size of the log before it, inode of the log, container, stream, mark."""
_FREE, _READING, _READ, _WRITING = range(4)


class Chunk:
    """One read of one stream. `fill` and `forget` are called on the loop, `put_into` in a thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._map = _mapped(path)
        self._room = memoryview(self._map)[_HEAD_BYTES:]

    def fill(self, fd: int, container: ContainerId, stream: str) -> bytes:
        """Read what a fifo that is readable has; empty at its end."""
        length = min(unread_bytes(fd), CHUNK_BYTES)
        if length == 0:
            return b""
        mark = secrets.token_bytes(16)
        self._room[: len(mark)] = mark
        self._set_head(length, 0, 0, 0, container.encode(), stream.encode(), mark)
        self._state = _READING
        os.readv(fd, [self._room[:length]])  # all of it: nobody else reads there
        self._state = _READ
        return bytes(self._room[:length])

    @property
    def container(self) -> str:
        """Whose output it holds; empty when it holds none."""
        return "" if self._state == _FREE else _text(self._head[4])

    def put_into(self, log: int) -> None:
        """Append it to an open log. OSError when that takes it not at all or in part; blocks."""
        found = os.fstat(log)
        length, _at, _size, _inode, container, stream, mark = self._head
        at = time.time_ns()
        self._set_head(length, at, found.st_size, found.st_ino, container, stream, mark)
        self._state = _WRITING
        _write_whole(log, encode_output(bytes(self._room[:length]), _text(stream), at), found.st_size)

    def finish(self, log: int) -> None:
        """The same for what an earlier daemon has left; blocks."""
        length, at, size, inode, _container, stream, mark = self._head
        data = bytes(self._room[:length])
        if self._state == _READING and data[: len(mark)] == mark[:length]:
            return  # it was killed before it had read
        if self._state != _WRITING:
            self.put_into(log)
            return
        found = os.fstat(log)
        entries = encode_output(data, _text(stream), at)
        is_same = found.st_ino == inode and found.st_size >= size
        _write_whole(log, entries[found.st_size - size :] if is_same else entries, found.st_size)

    def forget(self) -> None:
        """It is in the log, or nobody wants it."""
        self._state = _FREE

    def remove(self) -> None:
        """The same, and it is not needed any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Let go of it. Safe to repeat."""
        self._room.release()
        self._map.close()

    @property
    def _state(self) -> int:
        return self._map[0]

    @_state.setter
    def _state(self, state: int) -> None:
        self._map[0] = state

    @property
    def _head(self) -> tuple[int, int, int, int, bytes, bytes, bytes]:
        length, at, size, inode, container, stream, mark = _HEAD.unpack_from(self._map, 8)
        return length, at, size, inode, container, stream, mark

    def _set_head(self, *values: int | bytes) -> None:
        _HEAD.pack_into(self._map, 8, *values)


def _mapped(path: str) -> mmap.mmap:
    """A file of the whole size; memory that dies with us where the state directory has no room for one."""
    size = _HEAD_BYTES + CHUNK_BYTES
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)  # or a page that has no room would be a SIGBUS
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)
    except OSError as error:
        _log.warning("what is read of containers and not logged yet would not survive a kill: %s", error)
        return mmap.mmap(-1, size)


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("ascii")


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


class Chunks:
    """Room for as many as are under way; those that an earlier daemon left are handed out by container."""

    def __init__(self, directory: str, kept: int) -> None:
        """The first `kept` files stay when nothing is in them."""
        self._directory = directory
        os.makedirs(directory, 0o700, exist_ok=True)
        self._kept = frozenset(f"{directory}/{number}" for number in range(kept))
        found = {f"{directory}/{name}" for name in os.listdir(directory)}
        chunks = [Chunk(path) for path in sorted(found | self._kept)]
        self._left = [chunk for chunk in chunks if chunk.container]
        self._free = [chunk for chunk in chunks if not chunk.container]

    def take(self) -> Chunk:
        """A free one; give it back."""
        if self._free:
            return self._free.pop()
        known = set(os.listdir(self._directory))
        return Chunk(f"{self._directory}/{next(n for n in map(str, itertools.count()) if n not in known)}")

    def give(self, chunk: Chunk) -> None:
        """What it holds is done with."""
        if chunk.path in self._kept:
            chunk.forget()
            self._free.append(chunk)
        else:
            chunk.remove()

    def left_of(self, container: ContainerId) -> Iterator[Chunk]:
        """What an earlier daemon has read of this container; each is to be given back."""
        for chunk in [chunk for chunk in self._left if chunk.container == container]:
            self._left.remove(chunk)
            yield chunk

    def close(self) -> None:
        for chunk in (*self._free, *self._left):
            chunk.close()
