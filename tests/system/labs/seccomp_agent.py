"""An agent of seccomp's notifications, as the OCI's runtimes call one at a profile's `listenerPath`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_ASKED = struct.Struct("=QIIiIQ6Q")  # linux/seccomp.h, struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_STATE_BYTES = 1 << 16


class SeccompAgent:
    """Refuses each call that it is asked about, with the same errno."""

    def __init__(self, path: Path, answer: int) -> None:
        self.path = path
        self.states: list[dict[str, Any]] = []
        """What runtimes have said of the processes."""
        self.asked: list[int] = []
        """System calls, by number."""
        self._answer = answer
        self._notifiers: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._server.bind(str(path))
        self._server.listen()
        self._loop.add_reader(self._server, self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = self._server.accept()
            connection.setblocking(False)
            self._loop.add_reader(connection, self._receive, connection)

    def _receive(self, connection: socket.socket) -> None:
        state, descriptors, _, _ = socket.recv_fds(connection, _STATE_BYTES, 1)
        self._loop.remove_reader(connection)
        connection.close()
        if state:
            self.states.append(json.loads(state))
        for notifier in descriptors:
            self._notifiers.add(notifier)
            self._loop.add_reader(notifier, self._told, notifier)

    def _told(self, notifier: int) -> None:
        buffer = bytearray(_ASKED.size)
        try:
            fcntl.ioctl(notifier, _RECEIVE, buffer)
        except OSError as error:
            if error.errno != errno.ENOENT or not self._is_asked(notifier):  # that process has been killed
                self._let_go(notifier)
            return
        identity, _, _, number, *_ = _ASKED.unpack(buffer)
        self.asked.append(number)
        with contextlib.suppress(OSError):  # it has been killed meanwhile
            fcntl.ioctl(notifier, _SEND, _ANSWER.pack(identity, 0, -self._answer, 0))

    def _is_asked(self, notifier: int) -> bool:

        poll = select.poll()
        poll.register(notifier, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(0))

    def _let_go(self, notifier: int) -> None:
        self._loop.remove_reader(notifier)
        self._notifiers.discard(notifier)
        os.close(notifier)

    def close(self) -> None:
        """Nobody answers any more. Safe to repeat."""
        if self._server.fileno() < 0:
            return
        for notifier in tuple(self._notifiers):
            self._let_go(notifier)
        self._loop.remove_reader(self._server)
        self._server.close()
        self.path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def seccomp_agent(path: Path, answer: int) -> AsyncIterator[SeccompAgent]:
    agent = SeccompAgent(path, answer)
    try:
        yield agent
    finally:
        agent.close()
