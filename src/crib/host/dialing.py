"""Sockets that belong to another network namespace, or lie in another root, used from here.

A socket stays in the namespace in which it was made (network_namespaces(7)): it is made by a thread in there,
and connected and used by the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections import deque

from crib.host.files import open_in_root, open_root
from crib.host.namespaces import run_in_namespace_async
from crib.host.streams import DescriptorWait
from crib.host.threads import FOREIGN, Job

LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_LARGEST = 65535
_RETRY = 0.01
_WAIT = 10.0
_FIRST = 16
"""Datagrams that are kept at most."""
_NO_SUCH_ADDRESS = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENETUNREACH}


async def connect_tcp(netns: str, family: int, address: str, port: int) -> socket.socket:
    """A connected socket in the namespace at `netns` (empty: ours); OSError when it is refused."""
    made = await _make_socket(netns, family, socket.SOCK_STREAM)
    try:
        await asyncio.get_running_loop().sock_connect(made, (address, port))
        # What is carried was cut into pieces by others: waiting for more (Nagle) would only add to the way.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        made.close()
        raise
    return made


async def connect_unix(root: str, path: str) -> socket.socket:
    """A stream socket connected to `path` as a process with that root would name it: no link leads out of it.

    OSError when there is none, or the file system does not answer.
    """
    opened: list[int] = []  # also by a thread that ends its work when we are cancelled

    def close() -> None:
        while opened:
            os.close(opened.pop())

    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        job = Job(f"opening the socket {path} in {root}", root, _WAIT, late=close)
        await FOREIGN.run(job, lambda: opened.append(_open_place(root, path)))
        while True:
            try:
                connected.connect(f"/proc/self/fd/{opened[0]}")
            except BlockingIOError:  # the backlog is full; nothing reports when it is shorter
                await asyncio.sleep(_RETRY)
            else:
                return connected
    except BaseException:
        connected.close()
        raise
    finally:
        close()


def _open_place(root: str, path: str) -> int:
    root_fd = open_root(root)
    try:
        place = open_in_root(root_fd, path, os.O_PATH)
    finally:
        os.close(root_fd)
    if not stat.S_ISSOCK(os.fstat(place).st_mode):
        os.close(place)
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path)
    return place


async def _make_socket(netns: str, family: int, kind: int) -> socket.socket:
    def make() -> socket.socket:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK)

    return await run_in_namespace_async(netns, "net", make) if netns else make()


async def _udp_socket(netns: str, family: int, address: str, port: int) -> socket.socket | None:
    """None if there is no such address."""
    try:
        made = await _make_socket(netns, family, socket.SOCK_DGRAM)
    except OSError as error:
        if error.errno in _NO_SUCH_ADDRESS:
            return None
        raise
    try:
        made.connect((address, port))
    except OSError as error:
        made.close()
        if error.errno in _NO_SUCH_ADDRESS:
            return None
        raise
    return made


class UdpFlow:
    """A UDP flow to a port on a namespace's loopback: IPv4, or IPv6 if nothing listens there.

    The kernel reports that only after a datagram was sent (ICMP, as an error of a later call). So the first
    ones are kept until there is an answer, and sent again to the other address.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._unanswered: deque[bytes] = deque(maxlen=_FIRST)
        self._answered = False
        self._closed = False
        self._ready = self._readiness()

    @classmethod
    async def open(cls, netns: str, port: int) -> UdpFlow:
        """OSError if the namespace does not exist."""
        sockets: list[socket.socket] = []
        try:
            for family, address in LOOPBACKS:
                if (made := await _udp_socket(netns, family, address, port)) is not None:
                    sockets.append(made)
        except BaseException:
            for made in sockets:
                made.close()
            raise
        if not sockets:
            raise OSError(errno.EADDRNOTAVAIL, "there is no loopback")
        return cls(sockets)

    def send(self, payload: bytes) -> None:
        """Send one; it may be lost, as in UDP. ConnectionError if nothing listens, or after `close`."""
        if self._closed:
            raise BrokenPipeError("it is closed")
        if not self._answered:
            self._unanswered.append(payload)
        try:
            self._socket.send(payload)
        except ConnectionRefusedError:  # the error is about an earlier one, and this one was not sent
            self._refused()
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE}:
                raise ConnectionAbortedError(error.errno, error.strerror) from error

    async def receive(self) -> bytes | None:
        """Wait for one; None after `close`. ConnectionError if nothing listens there."""
        while not self._closed:
            try:
                payload = self._socket.recv(_LARGEST)
            except BlockingIOError:
                await self._ready.wait()
            except ConnectionRefusedError:
                self._refused()
            else:
                self._answered = True
                self._unanswered.clear()
                return payload
        return None

    def close(self) -> None:
        """Safe to repeat."""
        self._closed = True
        self._ready.wake()
        for made in self._sockets:
            made.close()

    @property
    def _socket(self) -> socket.socket:
        return self._sockets[0]

    def _refused(self) -> None:
        if self._answered:
            return  # it listened before: a datagram is lost, no more
        if len(self._sockets) == 1:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self._ready.wake()
        self._sockets.pop(0).close()
        self._ready = self._readiness()
        for payload in self._unanswered:
            with contextlib.suppress(OSError):
                self._socket.send(payload)

    def _readiness(self) -> DescriptorWait:
        loop = asyncio.get_running_loop()
        return DescriptorWait(self._socket.fileno(), loop.add_reader, loop.remove_reader)
