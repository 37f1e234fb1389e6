"""Questions that are not about pods go to the servers of the host's resolv.conf(5), one after another.

A question is sent on as it came, but with a random id, and from a random port that the kernel chooses. An
answer counts only if it comes from the server that was asked, with that id, and to that question. Nothing is
cached.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from crib.wire import dns

RESOLV_CONF = "/etc/resolv.conf"
PORT = 53
SERVERS = 3
"""As many as the C library asks."""
TRY_SECONDS = 2.0
TOTAL_SECONDS = 5.0
_FILE_BYTES = 64 * 1024
_LOCAL = ("127.0.0.1",)

Address = IPv4Address | IPv6Address


class Forwarder:
    """Asks the host's own name servers; the file is read again when it has changed."""

    def __init__(self, resolv_conf: str = RESOLV_CONF, port: int = PORT) -> None:
        self._path = resolv_conf
        self._port = port
        self._seen: tuple[int, int, int] | None = None
        self._servers: Sequence[str] = _LOCAL

    def servers(self) -> Sequence[str]:
        """The addresses of the host's name servers as the file has them now."""
        try:
            found = os.stat(self._path)
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                with open(self._path, "rb") as file:
                    self._servers = servers_in(file.read(_FILE_BYTES))
                self._seen = seen
        except OSError:
            # A file that is just being replaced: what it said last is the best guess.
            self._seen = None
        return self._servers

    def question(
        self, query: dns.Query, data: bytes, avoid: Collection[Address], done: Callable[[bytes], None]
    ) -> Question:
        """`data`, a query as it came, for the servers that are not at `avoid` (ourselves); not yet sent.

        `done` gets the answer of the first server that has one; empty if none answered in time.
        """
        return Question((query, data), self._others(avoid), self._port, done)

    async def ask_by_stream(self, query: dns.Query, data: bytes, avoid: Collection[Address]) -> bytes:
        """As `question` by TCP, with the answer as the result. Raises nothing."""
        failure = b""
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                for server in self._others(avoid):
                    answer = await self._exchange(server, query, data)
                    if answer and not _failed(answer):
                        return answer
                    failure = failure or answer
        except TimeoutError:
            pass  # the next server is not asked any more: the client has given up by now
        return failure

    async def _exchange(self, server: str, query: dns.Query, data: bytes) -> bytes:
        ident = secrets.randbelow(1 << 16)
        try:
            async with asyncio.timeout(TRY_SECONDS):
                reader, writer = await asyncio.open_connection(server, self._port)
                try:
                    writer.write(framed(dns.with_id(data, ident)))
                    answer = await read_framed(reader)
                finally:
                    writer.close()
        except (OSError, EOFError):
            return b""  # the next server is asked; TimeoutError is an OSError
        return dns.with_id(answer, query.id) if dns.is_answer_to(answer, query, ident) else b""

    def _others(self, avoid: Collection[Address]) -> list[str]:
        return [server for server in self.servers() if ip_address(server.partition("%")[0]) not in avoid]


class Question:
    """A query under way by UDP, one server after another; driven by the loop's callbacks."""

    def __init__(
        self,
        asked: tuple[dns.Query, bytes],
        servers: Sequence[str],
        port: int,
        done: Callable[[bytes], None],
    ) -> None:
        self._query, self._data = asked
        self._servers = list(servers)
        self._port = port
        self._done = done
        self._failure = b""
        self._ident = 0
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Send it; `done` may be called before this returns."""
        self._deadline = asyncio.get_running_loop().call_later(TOTAL_SECONDS, self._finish, b"")
        self._next()

    def cancel(self) -> None:
        """Ask no further; `done` is not called."""
        self._quit_server()
        if self._deadline is not None:
            self._deadline.cancel()

    def _next(self) -> None:
        self._quit_server()
        loop = asyncio.get_running_loop()
        while self._servers:
            server = self._servers.pop(0)
            self._ident = secrets.randbelow(1 << 16)
            try:
                self._socket = _datagram_socket(server, self._port)
                self._socket.send(dns.with_id(self._data, self._ident))
            except OSError:
                self._quit_server()
                continue
            loop.add_reader(self._socket, self._readable)
            self._timer = loop.call_later(TRY_SECONDS, self._next)
            return
        self._finish(b"")

    def _readable(self) -> None:
        if self._socket is None:
            return
        try:
            answer = self._socket.recv(dns.MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._next()  # nobody is there
            return
        if not dns.is_answer_to(answer, self._query, self._ident):
            return  # late, forged or damaged: the right one may still come
        answer = dns.with_id(answer, self._query.id)
        if _failed(answer):
            self._failure = self._failure or answer
            self._next()
        else:
            self._finish(answer)

    def _finish(self, answer: bytes) -> None:
        self.cancel()
        self._done(answer or self._failure)

    def _quit_server(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self._timer = self._socket = None


def servers_in(resolv_conf: bytes) -> Sequence[str]:
    """The addresses in a resolv.conf(5), at most SERVERS; without any it is the local machine."""
    found: list[str] = []
    for line in resolv_conf.decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1])
        except ValueError:
            continue  # as the C library does
        found.append(words[1])
    return tuple(dict.fromkeys(found))[:SERVERS] or _LOCAL


def framed(message: bytes) -> bytes:
    """A message as it goes over TCP (RFC 1035, 4.2.2)."""
    return len(message).to_bytes(2, "big") + message


async def read_framed(reader: asyncio.StreamReader) -> bytes:
    """The next message of a TCP connection. EOFError at its end."""
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


def _failed(answer: bytes) -> bool:
    """Whether another server may do better."""
    return dns.code_of(answer) in (dns.SERVER_FAILURE, dns.REFUSED)


def _datagram_socket(server: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        made.connect((server, port))  # an address, so that nothing is waited for
    except BaseException:
        made.close()
        raise
    return made
