"""Connections into a pod: to its loopback from inside its network namespace, to sockets in its containers.

The kernel of a pod that has its own is reached from outside, at the pod's addresses.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Collection, Sequence

from crib.backends.known_processes import is_alive
from crib.ends import ByteStream
from crib.host.dialing import LOOPBACKS, UdpFlow, connect_tcp, connect_unix
from crib.host.streams import SocketStream
from crib.model.container import ContainerRecord
from crib.model.errors import InvalidRequest, NotFound, Unavailable
from crib.model.facts import HandlerFacts
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
            places = [(netns, family, host) for family, host in LOOPBACKS]
            return SocketStream(await _first_that_answers(what, places, address.port))
    except TimeoutError:
        raise Unavailable(f"{what}: no answer within {CONNECT_TIME:g} s") from None
    except OSError as error:
        raise Unavailable(f"{what}: {_words(error)}") from error


async def dial_own_kernel(
    paths: Paths, handler: HandlerFacts, record: SandboxRecord, address: PodAddress
) -> ByteStream:
    """To a pod whose kernel lets nobody in: from its network namespace, then at its addresses.

    A kernel that uses the host's network listens in the namespace, another one at the pod's address only.
    """
    what = f"connecting to {address} of sandbox {record.id}"
    check_own_kernel_address(what, handler, address)
    inside = [(paths.namespace(record.id, "net"), family, host) for family, host in LOOPBACKS]
    places = [*inside, *_addresses(record)]
    try:
        async with asyncio.timeout(CONNECT_TIME):
            return SocketStream(await _first_that_answers(what, places, address.port, _no_way(handler)))
    except TimeoutError:
        raise Unavailable(f"{what}: no answer within {CONNECT_TIME:g} s") from None


async def dial_addresses(handler: HandlerFacts, record: SandboxRecord, port: int) -> ByteStream:
    """To what listens at the pod's own addresses. The caller bounds the time."""
    what = f"connecting to {PodAddress('tcp', port)} of sandbox {record.id}"
    return SocketStream(await _first_that_answers(what, _addresses(record), port, _no_way(handler)))


def check_own_kernel_address(what: str, handler: HandlerFacts, address: PodAddress) -> None:
    """InvalidRequest for what never gets into a pod's own kernel."""
    if address.kind != "tcp":
        raise InvalidRequest(
            f"{what}: handler {handler.name} runs pods on a kernel of their own, which is reached by TCP only"
        )
    if address.port not in _PORTS:
        raise InvalidRequest(f"{address.port} is not a port", field="port")


def _addresses(record: SandboxRecord) -> list[tuple[str, int, str]]:
    known = record.network.addresses if record.network is not None else ()
    return [("", socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in known]


def _no_way(handler: HandlerFacts) -> str:
    return f"{os.path.basename(handler.program)} {handler.version} cannot connect to the pod's loopback"


async def _first_that_answers(
    what: str, places: Sequence[tuple[str, int, str]], port: int, hint: str = ""
) -> socket.socket:
    """By network namespace (empty: ours), family and address."""
    tried: list[str] = []
    for netns, family, host in places:
        try:
            return await connect_tcp(netns, family, host, port)
        except TimeoutError:
            raise
        except OSError as error:
            tried.append(f"{host}: {_words(error)}")
    said = "; ".join(tried) or "it has no address"
    raise Unavailable(f"{what}: {said} ({hint})" if hint else f"{what}: {said}")


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
