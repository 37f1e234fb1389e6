"""Connections into a pod: to its loopback from inside its network namespace, to sockets in its containers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Collection

from crib.backends.known_processes import is_alive
from crib.ends import ByteStream
from crib.host.dialing import LOOPBACKS, UdpFlow, connect_tcp, connect_unix
from crib.host.streams import SocketStream
from crib.model.container import ContainerRecord
from crib.model.errors import InvalidRequest, NotFound, Unavailable
from crib.model.paths import Paths
from crib.model.sandbox import SandboxRecord
from crib.model.streams import PodAddress
from crib.wire.portforward import DatagramReader, encode_datagram

CONNECT_TIME = 10.0
"""Seconds for one connection to come about, over all that is tried."""
_PORTS = range(1, 65536)


async def dial(
    paths: Paths, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
) -> ByteStream:
    """See Handler.dial."""
    what = f"connecting to {address} of sandbox {record.id}"
    netns = "" if record.config.host_network else paths.namespace(record.id, "net")
    if address.kind != "unix" and address.port not in _PORTS:
        raise InvalidRequest(f"{address.port} is not a port", field="port")
    try:
        async with asyncio.timeout(CONNECT_TIME):
            if address.kind == "unix":
                root = _root_of(containers, address)
                return SocketStream(await connect_unix(root, address.path))
            if address.kind == "udp":
                return FramedDatagrams(await UdpFlow.open(netns, address.port))
            return SocketStream(await _first_that_answers(netns, address.port, what))
    except TimeoutError:
        raise Unavailable(f"{what}: no answer within {CONNECT_TIME:g} s") from None
    except OSError as error:
        raise Unavailable(f"{what}: {_words(error)}") from error


async def _first_that_answers(netns: str, port: int, what: str) -> socket.socket:
    tried: list[str] = []
    for family, host in LOOPBACKS:
        try:
            return await connect_tcp(netns, family, host, port)
        except TimeoutError:
            raise
        except OSError as error:
            tried.append(f"{host}: {_words(error)}")
    raise Unavailable(f"{what}: {'; '.join(tried)}")


def _words(error: OSError) -> str:
    """The kernel's: asyncio's name the address once more."""
    return os.strerror(error.errno) if error.errno else str(error)


def _root_of(containers: Collection[ContainerRecord], address: PodAddress) -> str:
    if not address.path.startswith("/") or "\0" in address.path:
        raise InvalidRequest(f"{address.path!r} is not an absolute path", field="path")
    for record in containers:
        if (
            record.config.name == address.container
            and record.process is not None
            and is_alive(record.process)
        ):
            return f"/proc/{record.process.pid}/root"
    raise NotFound(f"no container {address.container!r} runs in the sandbox")


class FramedDatagrams:
    """See ports.ByteStream: each datagram in its frame (wire.portforward)."""

    def __init__(self, flow: UdpFlow) -> None:
        self._flow = flow
        self._reader = DatagramReader()

    async def read(self) -> bytes:
        """One frame. ConnectionError when nobody listens there."""
        payload = await self._flow.receive()
        return b"" if payload is None else encode_datagram(payload)

    async def write(self, data: bytes) -> None:
        """Each datagram that `data` completes is sent; ConnectionError also for what is no frame."""
        try:
            for payload in self._reader.receive(data):
                self._flow.send(payload)
        except ValueError as error:
            raise ConnectionAbortedError(str(error)) from error

    async def close(self) -> None:
        """Nothing: datagrams have no end, and answers may still come."""

    def abort(self) -> None:
        """Let go. Safe to repeat."""
        self._flow.close()
