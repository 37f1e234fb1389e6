"""DNS queries as clients write them, and a name server elsewhere that answers as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import IPv4Address

from crib.backends.network.bridge.forwarder import framed, read_framed
from crib.wire import dns


def question(
    name: str, kind: int = dns.A, *, ident: int = 7, flags: int = 0x0100, extra: bytes = b""
) -> bytes:
    """A query; `extra` is one more record."""
    labels = tuple(part.encode() for part in name.split(".") if part)
    header = struct.pack("!HHHHHH", ident, flags, 1, 0, 0, 1 if extra else 0)
    return header + dns.write_name(labels) + struct.pack("!HH", kind, 1) + extra


def opt(size: int, version: int = 0) -> bytes:
    """The record of EDNS, with an option that nobody knows."""
    return b"\0" + struct.pack("!HHIH", 41, size, version << 16, 4) + b"\0\x0a\0\0"


def header(message: bytes) -> tuple[int, ...]:
    """Id, flags and the four counts."""
    return struct.unpack_from("!6H", message)


def code(message: bytes) -> int:
    return header(message)[1] & 0xF


def free_port(*addresses: str) -> int:
    """A port that is free on all of the addresses, by UDP and TCP."""
    while True:
        with contextlib.ExitStack() as stack:
            port = 0
            try:
                for address in addresses:
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        made = stack.enter_context(socket.socket(socket.AF_INET, kind))
                        made.bind((address, port))
                        port = made.getsockname()[1]
            except OSError:
                continue
            return port


class Upstream:
    """A name server that does with each query what `reply` says; it keeps the queries."""

    def __init__(self, reply: Callable[[bytes], Sequence[bytes]]) -> None:
        self.reply = reply
        self.queries: list[bytes] = []
        self.asked = asyncio.Event()

    def take(self, data: bytes) -> Sequence[bytes]:
        self.queries.append(data)
        self.asked.set()
        return self.reply(data)

    @contextlib.asynccontextmanager
    async def running(self, address: str, port: int) -> AsyncIterator[None]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        datagrams.bind((address, port))
        loop = asyncio.get_running_loop()

        def readable() -> None:
            data, sender = datagrams.recvfrom(65535)
            for answer in self.take(data):
                datagrams.sendto(answer, sender)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in self.take(await read_framed(reader)):
                writer.write(framed(answer))
            writer.close()

        loop.add_reader(datagrams, readable)
        try:
            async with await asyncio.start_server(serve, address, port):
                yield
        finally:
            loop.remove_reader(datagrams)
            datagrams.close()


def answered(data: bytes, code: int = dns.NO_ERROR) -> bytes:
    """An answer as a name server elsewhere gives it."""
    query = dns.read_query(data)
    records = (dns.address_record(IPv4Address("192.0.2.1"), 60),) if code == dns.NO_ERROR else ()
    return dns.write_answer(query, dns.Answer(code, records), 512)
