"""Who is connected to a unix socket on which this process listens.

The kernel keeps the credentials of whoever connected (SO_PEERCRED in unix(7)), and the accepted ends are
among our own descriptors, whichever library accepted them.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import struct
from dataclasses import dataclass

_DESCRIPTORS = "/proc/self/fd"
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""
_SO_PEERPIDFD = 77
"""Since Linux 6.5; the socket module does not name it."""


@dataclass(frozen=True, slots=True)
class ConnectedProcess:
    """As it was when it connected."""

    pid: int
    """0 where our pid namespace does not have it."""
    uid: int
    executable: str
    """Read when its connection was first seen; empty where it cannot be had for sure."""


class AcceptedConnections:
    """Of one socket. To be used by one thread at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[int, ConnectedProcess | None] = {}
        """By inode of our end; None for a socket that is no such end."""

    def look(self) -> list[ConnectedProcess]:
        """Whose connections there are: all that last from the beginning of this call to its end, at least.

        It takes a microsecond for each descriptor of this process, and one of them twenty when it is new.
        """
        seen: dict[int, ConnectedProcess | None] = {}
        for name in os.listdir(_DESCRIPTORS):
            try:
                status = os.fstat(int(name))
            except OSError:
                continue  # closed meanwhile
            if not stat.S_ISSOCK(status.st_mode):
                continue
            inode = status.st_ino
            seen[inode] = self._known[inode] if inode in self._known else self._inspect(int(name), inode)
        self._known = seen
        return [one for one in seen.values() if one is not None]

    def _inspect(self, number: int, inode: int) -> ConnectedProcess | None:
        try:
            copy = os.dup(number)  # the number may soon be another file's
        except OSError:
            return None
        with socket.socket(fileno=copy) as end:
            if os.fstat(copy).st_ino != inode or end.family != socket.AF_UNIX:
                return None
            if end.getsockname() != self._path or end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
            return peer_of(end)


def peer_of(end: socket.socket) -> ConnectedProcess:
    """Who made the connection that `end` was accepted from; of a connected end, who listened. OSError."""
    told = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(told)
    return ConnectedProcess(pid, uid, _executable(end, pid) if pid else "")


def _executable(end: socket.socket, pid: int) -> str:
    """Of the process that connected, and not of a later one with its number."""
    try:
        process = end.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            return ""
        # Before Linux 6.5: its number is its own as long as it lives, and its end was not closed yet.
        found = _link(pid)
        return "" if _has_hung_up(end) else found
    try:
        found = _link(pid)
        signal.pidfd_send_signal(process, 0)  # it has not ended: the number was its own all the time
    except OSError:
        return ""
    finally:
        os.close(process)
    return found


def _link(pid: int) -> str:
    try:
        found = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
    return os.fsencode(found).decode(errors="replace")


def _has_hung_up(end: socket.socket) -> bool:
    poll = select.poll()
    poll.register(end, select.POLLRDHUP)
    return bool(poll.poll(0))
