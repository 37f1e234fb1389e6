"""The socket that plugins connect to: made, looked after, and taken away again.

Its path is well known, and other runtimes use it too. One that somebody listens on is left alone, and looked
at again and again; one that a dead daemon left is replaced. One whose file somebody removed is made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable

from crib.backends.failures import why
from crib.host.directories import make_directory
from crib.host.peers import peer_of
from crib.host.threads import FOREIGN, Job
from crib.tasks.keeper import HANDS

_log = logging.getLogger(__name__)

MODE = 0o600
"""Who can write to it may run programs as root."""
DIRECTORY_MODE = 0o700
"""Of directories that are made for it."""
BACKLOG = 64
LOOK_SECONDS = 30.0
"""Between two looks whether the socket's file is there and ours."""
FILE_SECONDS = 10.0
"""For one such look, or for making it."""
PAUSE_SECONDS = 1.0
"""Without accepting, after that failed: no descriptor is left."""
MAX_PATH = 107
"""Bytes (unix(7), sun_path less its NUL)."""


class SocketTaken(OSError):
    """Somebody else listens there."""


class PluginSocket:
    """At one path; each connection is handed to `accepted`, which owns it."""

    def __init__(
        self, path: str, accepted: Callable[[socket.socket], None], told: Callable[[str], None]
    ) -> None:
        """`told` gets what keeps plugins from connecting, and an empty text when that is over."""
        self._path = path
        self._accepted = accepted
        self._told = told
        self._listener: socket.socket | None = None
        self._file: tuple[int, int] | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen, now or as soon as that is possible."""
        await self._look()
        self._task = HANDS.serve("NRI socket", self._watch())

    async def close(self) -> None:
        """Accept nobody any more, and remove the file if it is ours."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        file = self._file
        self._let_go()
        if file is not None:
            with contextlib.suppress(OSError):  # on a file system that does not answer
                await FOREIGN.run(self._job("removing"), _remove, self._path, file)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        """Make the socket, unless it is there and ours."""
        try:
            if self._file is not None:
                if await FOREIGN.run(self._job("looking at"), _identity, self._path) == self._file:
                    return
                _log.warning("the NRI socket %s was removed or replaced by somebody else", self._path)
                self._let_go()
            self._listener, self._file = await self._made()
        except OSError as error:
            self._let_go()
            self._told(f"plugins cannot connect to {self._path}: {why(error, self._path)}")
            return
        self._told("")
        _log.info("NRI plugins can connect to %s", self._path)
        self._resume()

    async def _made(self) -> tuple[socket.socket, tuple[int, int]]:
        made: list[socket.socket] = []  # also by a thread that ends its work when nobody waits any more

        def work() -> tuple[int, int]:
            made.append(_bound(self._path))
            return _identity(self._path)

        def forget() -> None:
            for one in made:
                one.close()

        job = Job(f"making the NRI socket {self._path}", self._path, FILE_SECONDS, late=forget)
        try:
            identity = await FOREIGN.run(job, work)
        except BaseException:
            forget()
            raise
        return made[0], identity

    def _job(self, doing: str) -> Job:
        return Job(f"{doing} the NRI socket {self._path}", self._path, FILE_SECONDS)

    def _let_go(self) -> None:
        listener, self._listener, self._file = self._listener, None, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener.fileno())
            listener.close()

    def _resume(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            end, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # EMFILE: it would be ready again at once
            _log.error("accepting an NRI plugin at %s: %s", self._path, why(error))
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener.fileno())
            loop.call_later(PAUSE_SECONDS, self._resume)
            return
        end.setblocking(False)
        self._accepted(end)


def _bound(path: str) -> socket.socket:
    """A listening socket; SocketTaken, or another OSError."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise OSError(errno.ENAMETOOLONG, f"a socket's path has at most {MAX_PATH} bytes", path)
    make_directory(os.path.dirname(path), DIRECTORY_MODE)
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(path)
        os.chmod(path, MODE)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _clear(path: str) -> None:
    """Remove a socket on which nobody listens any more."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.ENOTSOCK, "there is a file that is no socket", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # so many wait already: there is somebody
            raise SocketTaken(errno.EADDRINUSE, "another program listens there", path) from None
        other = peer_of(probe)
    who = f"{os.path.basename(other.executable) or 'another program'} (pid {other.pid})"
    raise SocketTaken(errno.EADDRINUSE, f"{who} listens there", path)


def _identity(path: str) -> tuple[int, int]:
    """Device and inode of the file; zeros where there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _remove(path: str, file: tuple[int, int]) -> None:
    if _identity(path) == file:
        os.unlink(path)
