"""Pods find each other by name: a name server on the bridge's own addresses, in the daemon's event loop.

NAME.NAMESPACE.DOMAIN is answered from what the network knows; whatever is outside the domain goes to the
host's name servers (`forwarder`). Questions under way and connections are bounded, in total and for each
client: one pod cannot take all. Whatever a client sends, the server keeps running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from crib.backends.failures import why
from crib.backends.network.bridge.addresses import Address, AddressBook
from crib.backends.network.bridge.forwarder import Forwarder, Question, framed, read_framed
from crib.model.sandbox import DnsConfig
from crib.wire import dns

_log = logging.getLogger(__name__)

Lookup = Callable[[str, str], Sequence[Address]]
ReverseLookup = Callable[[Address], tuple[str, str] | None]

TTL_SECONDS = 5
QUESTIONS = 256
QUESTIONS_OF_ONE = 64
CONNECTIONS = 128
CONNECTIONS_OF_ONE = 16
IDLE_SECONDS = 10.0
BACKLOG = 64
DATAGRAMS_AT_ONCE = 16
"""Read in one turn of the loop, which then serves others."""


class NameServer:
    """Answers for pods' names: `lookup(name, namespace)` gives a pod's addresses, none without such a pod.

    `reverse(address)` gives a pod's (name, namespace), or None. Both are called on the loop: they must not
    block. ValueError if `domain` is no domain name.
    """

    def __init__(
        self,
        domain: str,
        lookup: Lookup,
        reverse: ReverseLookup | None = None,
        forwarder: Forwarder | None = None,
    ) -> None:
        self._domain = dns.labels_of(domain)
        self._zone = dns.zone_record(self._domain, TTL_SECONDS)
        self._lookup = lookup
        self._reverse = reverse
        self._forwarder = forwarder or Forwarder()
        self._listeners: dict[tuple[Address, int], _Listener] = {}
        self._changing = asyncio.Lock()
        self._asked: dict[Question, str] = {}  # under way by UDP, with the client
        self._serving: set[asyncio.Task[None]] = set()
        self._questions = _Places(QUESTIONS, QUESTIONS_OF_ONE)
        self._connections = _Places(CONNECTIONS, CONNECTIONS_OF_ONE)

    async def listen(self, addresses: Sequence[str], port: int = 53) -> None:
        """Answer on these addresses and no others, by UDP and TCP; those that are listened on already stay.

        OSError naming the first address that cannot be listened on; those before it are.
        """
        wanted = {(ip_address(address), port): None for address in addresses}
        async with self._changing:
            for place in self._listeners.keys() - wanted.keys():
                self._listeners.pop(place).close()
            for place in wanted:
                if place not in self._listeners:
                    self._listeners[place] = await self._listener(*place)

    async def close(self) -> None:
        """Stop answering; what is under way is dropped. Closing twice is safe."""
        async with self._changing:
            while self._listeners:
                self._listeners.popitem()[1].close()
            while self._asked:
                question, client = self._asked.popitem()
                question.cancel()
                self._questions.give(client)
            for task in self._serving:
                task.cancel()
            if self._serving:
                await asyncio.wait(set(self._serving))

    async def _listener(self, address: Address, port: int) -> _Listener:
        listener = _Listener()
        try:
            datagrams = listener.bound(address, port, socket.SOCK_DGRAM)
            stream = listener.bound(address, port, socket.SOCK_STREAM)
            asyncio.get_running_loop().add_reader(datagrams, self._readable, datagrams)
            listener.server = await asyncio.start_server(self._serve, sock=stream, backlog=BACKLOG)
        except BaseException as error:
            listener.close()
            if isinstance(error, OSError):
                text = f"listen for names on {address} port {port}: {why(error)}"
                raise OSError(error.errno, text, str(address)) from error
            raise
        return listener

    def _readable(self, datagrams: socket.socket) -> None:
        for _ in range(DATAGRAMS_AT_ONCE):
            try:
                data, sender = datagrams.recvfrom(dns.MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # one earlier answer found no client
            self._datagram(datagrams, data, sender)

    def _datagram(self, datagrams: socket.socket, data: bytes, sender: Any) -> None:
        query = _read(data)
        if isinstance(query, bytes):
            _send(datagrams, query, sender)
            return
        answer = self._answer(query)
        if answer is not None:
            _send(datagrams, dns.write_answer(query, answer, query.datagram_bytes), sender)
            return

        client = sender[0]
        if not self._questions.take(client):
            _send(datagrams, _failure(query), sender)
            return

        def done(found: bytes) -> None:
            self._questions.give(self._asked.pop(question))
            _send(datagrams, found or _failure(query), sender)

        question = self._forwarder.question(query, data, self._own_addresses(), done)
        self._asked[question] = client
        question.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: its questions one after another, until it ends or says nothing."""
        task = asyncio.current_task()
        client = (writer.get_extra_info("peername") or ("",))[0]
        if task is None or not self._connections.take(client):
            writer.close()
            return
        self._serving.add(task)
        try:
            while True:
                async with asyncio.timeout(IDLE_SECONDS):
                    data = await read_framed(reader)
                answer = await self._stream_answer(data, client)
                if not answer:
                    return
                writer.write(framed(answer))
                async with asyncio.timeout(IDLE_SECONDS):
                    await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client has gone, says nothing any more, or the server ends: this task does in any case
        finally:
            self._serving.discard(task)
            self._connections.give(client)
            writer.close()

    async def _stream_answer(self, data: bytes, client: str) -> bytes:
        query = _read(data)
        if isinstance(query, bytes):
            return query
        answer = self._answer(query)
        if answer is not None:
            return dns.write_answer(query, answer, dns.MESSAGE_BYTES)
        if not self._questions.take(client):
            return _failure(query)
        try:
            found = await self._forwarder.ask_by_stream(query, data, self._own_addresses())
        finally:
            self._questions.give(client)
        return found or _failure(query)

    def _own_addresses(self) -> set[Address]:
        return {address for address, _ in self._listeners}

    def _answer(self, query: dns.Query) -> dns.Answer | None:
        """What is known here; None for a question that others are to answer."""
        if query.version:
            return dns.Answer(dns.BAD_VERSION)
        if not query.is_standard:
            return dns.Answer(dns.NOT_IMPLEMENTED)
        name = query.name
        depth = len(self._domain)
        try:
            if name[-depth:] == self._domain:
                return self._in_domain(query, name[:-depth])
            return self._pointer(query, name)
        except Exception:
            _log.exception("name %r could not be looked up", b".".join(name))
            return dns.Answer(dns.SERVER_FAILURE)

    def _in_domain(self, query: dns.Query, below: dns.Labels) -> dns.Answer:
        if not below:
            apex = dns.Answer(dns.NO_ERROR, (self._zone,))
            return apex if query.asks_for(dns.SOA) else self._no_data()
        # A bare namespace does not exist, even if names are below it (RFC 8020 would have it empty):
        # a C library that learns of an empty name does not try the next search domain.
        addresses = self._addresses(below) if len(below) > 1 else ()
        if not addresses:
            return dns.Answer(dns.NO_SUCH_NAME, authority=(self._zone,))
        records = [dns.address_record(address, TTL_SECONDS) for address in addresses]
        asked = tuple(record for record in records if query.asks_for(record.kind))
        return dns.Answer(dns.NO_ERROR, asked) if asked else self._no_data()

    def _addresses(self, below: dns.Labels) -> Sequence[Address]:
        *name, namespace = below
        try:
            dns.labels_of(b".".join(below).decode("ascii"))
        except ValueError:
            return ()  # no name that a pod can have
        # A pod's name may have dots, a namespace's may not.
        return self._lookup(b".".join(name).decode("ascii"), namespace.decode("ascii"))

    def _pointer(self, query: dns.Query, name: dns.Labels) -> dns.Answer | None:
        """The name of a pod's address."""
        address = dns.reverse_address(name) if self._reverse else None
        pod = self._reverse(address) if self._reverse and address is not None else None
        if pod is None:
            return None
        if not query.asks_for(dns.PTR):
            return self._no_data()
        full = (*dns.labels_of(".".join(pod)), *self._domain)
        return dns.Answer(dns.NO_ERROR, (dns.pointer_record(full, TTL_SECONDS),))

    def _no_data(self) -> dns.Answer:
        """The name is there, what was asked for is not (RFC 2308, 2.2)."""
        return dns.Answer(dns.NO_ERROR, authority=(self._zone,))


class _Places:
    """How many may do something at once, in total and for one client."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._held: Counter[str] = Counter()
        self._count = 0

    def take(self, client: str) -> bool:
        """Take a place until `give`; False if there is none."""
        if self._count >= self._total or self._held[client] >= self._each:
            return False
        self._count += 1
        self._held[client] += 1
        return True

    def give(self, client: str) -> None:
        """Give a place back."""
        self._count -= 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]


class _Listener:
    """What listens on one address."""

    def __init__(self) -> None:
        self.server: asyncio.Server | None = None
        self._sockets: list[socket.socket] = []

    def bound(self, address: Address, port: int, kind: socket.SocketKind) -> socket.socket:
        """A socket on the address; `close` closes it."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        made = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._sockets.append(made)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(address), port))
        return made

    def close(self) -> None:
        """Free the address at once: the same turn of the loop may listen on it again."""
        if self.server is not None:
            self.server.close()
        for one in self._sockets:
            if one.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(one)
                one.close()


def _read(data: bytes) -> dns.Query | bytes:
    """The query, or the answer to what is none (empty: it gets no answer)."""
    try:
        return dns.read_query(data)
    except dns.MalformedMessage:
        return dns.refuse(data, dns.FORMAT_ERROR)


def _send(datagrams: socket.socket, answer: bytes, client: Any) -> None:
    if answer:
        with contextlib.suppress(OSError):  # a full buffer or no route back: datagrams may be lost
            datagrams.sendto(answer, client)


def _failure(query: dns.Query) -> bytes:
    return dns.write_answer(query, dns.Answer(dns.SERVER_FAILURE), dns.PLAIN_BYTES)


class BridgeNames:
    """Listens where the bridge's gateways are; does nothing where `domain` is empty."""

    def __init__(self, domain: str, addresses: AddressBook) -> None:
        self._domain = domain
        self._addresses = addresses
        self._server: NameServer | None = None
        self.problem = ""
        """Why names are not answered; empty when they are, or when nobody asked for it."""

    async def serve(self) -> None:
        """Listen on the gateways of now. A failure is logged and kept in `problem`: pods do without."""
        if not self._domain:
            return
        if self._server is None:
            self._server = NameServer(self._domain, self._lookup, self._reverse)
        problem = ""
        try:
            await self._server.listen(tuple(map(str, self._addresses.gateways)))
        except OSError as error:
            problem = f"names of pods are not answered: {why(error)}"
        if problem and problem != self.problem:
            _log.warning("%s", problem)
        self.problem = problem

    def resolver(self, namespace: str) -> DnsConfig | None:
        """What pods of a namespace ask first; None where there is no domain."""
        if not self._domain:
            return None
        servers = tuple(map(str, self._addresses.gateways))
        return DnsConfig(servers, (f"{namespace}.{self._domain}", self._domain))

    async def close(self) -> None:
        """Answer no more; closing twice is safe."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    def _lookup(self, name: str, namespace: str) -> Sequence[Address]:
        return self._addresses.named(f"{namespace}/{name}")

    def _reverse(self, address: Address) -> tuple[str, str] | None:
        namespace, _, name = self._addresses.owner(address).partition("/")
        return (name, namespace) if name else None
