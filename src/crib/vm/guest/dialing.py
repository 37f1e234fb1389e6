"""Connections to what listens in the pod, for port-forward."""

from __future__ import annotations

import _socket
import errno
import os

from crib.vm.guest.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, NOT_FOUND, Failure
from crib.vm.guest.loop import WRITE, Later, Loop
from crib.vm.guest.streams import Sink, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crib.vm.guest.loop import Job

DIAL_SECONDS = 10.0
"""For a connection to be made."""
MOST_CONNECTIONS = 1024
MAX_PATH_BYTES = 107


class Connection:
    """One that was made."""

    def __init__(self, loop: Loop, socket: _socket.socket) -> None:
        self._socket = socket
        self.source = Source(loop, os.dup(socket.fileno()))
        self.sink = Sink(loop, os.dup(socket.fileno()))

    def end_sending(self) -> None:
        """The peer reads no more; what it sends still comes."""
        self.sink.close()
        try:
            self._socket.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # the peer has ended it

    def close(self) -> None:
        """It is over."""
        self.sink.close()
        self.source.close()
        self._socket.close()


class Dialing:
    """All connections, by number."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._connections: dict[int, Connection] = {}
        self._last = 0

    def dial(self, asked: dict[str, Any]) -> Job:
        """Make one. Failure if nothing listens."""
        if len(self._connections) >= MOST_CONNECTIONS:
            raise Failure(FAILED_PRECONDITION, f"there are {MOST_CONNECTIONS} connections already")
        problem = ""
        for family, address in _addresses(asked):
            socket = _socket.socket(
                family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
            )
            problem = yield from self._connected(socket, address)
            if not problem:
                self._last += 1
                self._connections[self._last] = Connection(self._loop, socket)
                return {"connection": self._last}
            socket.close()
        raise Failure(FAILED_PRECONDITION, f"nothing answers at {asked['path'] or asked['port']}: {problem}")

    def found(self, number: int) -> Connection:
        """The connection with this number."""
        if (connection := self._connections.get(number)) is None:
            raise Failure(NOT_FOUND, f"connection: there is no connection {number}")
        return connection

    def close(self, asked: dict[str, Any]) -> dict[str, Any]:
        """End one, or its one direction."""
        connection = self.found(asked["connection"])
        if asked["sending"]:
            connection.end_sending()
        else:
            connection.close()
            del self._connections[asked["connection"]]
        return {}

    def _connected(self, socket: _socket.socket, address: Any) -> Job:
        """What went wrong, or nothing."""
        number = socket.connect_ex(address)
        if number in (errno.EINPROGRESS, errno.EAGAIN):
            ready = Later()
            self._loop.after(DIAL_SECONDS).then(lambda _: ready.set(False))
            self._loop.watch(socket.fileno(), WRITE, lambda _: ready.set(True))
            is_ready = yield ready
            self._loop.unwatch(socket.fileno())
            if not is_ready:
                return f"no answer within {DIAL_SECONDS:.0f} s"
            number = socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        return os.strerror(number) if number else ""


def _addresses(asked: dict[str, Any]) -> list[tuple[int, Any]]:
    match asked["network"]:
        case "tcp":
            if not 0 < asked["port"] < 65536:
                raise Failure(INVALID_ARGUMENT, f"port: {asked['port']} is no port")
            return [
                (_socket.AF_INET, ("127.0.0.1", asked["port"])),
                (_socket.AF_INET6, ("::1", asked["port"])),
            ]
        case "unix":
            if not asked["path"].startswith("/") or len(asked["path"].encode()) > MAX_PATH_BYTES:
                raise Failure(INVALID_ARGUMENT, f"path: {asked['path']!r} is no absolute path of a socket")
            return [(_socket.AF_UNIX, asked["path"])]
    raise Failure(INVALID_ARGUMENT, f"network: {asked['network']!r} is neither tcp nor unix")
