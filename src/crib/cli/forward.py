"""`crib forward`: local sockets whose connections continue in a pod."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crib.cli.output import clean
from crib.cli.session import CommandError, say
from crib.client import lookup, streams
from crib.client.errors import ClientError
from crib.wire.portforward import DatagramReader, Target, decode_target, encode_datagram

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from crib.cli.options import ForwardOptions
    from crib.cli.session import CliSession

    Dial = Callable[[Target], contextlib.AbstractAsyncContextManager[streams.ForwardedConnection]]

MAX_CONNECTIONS = 256
"""Connections at a time; more wait. Each has a connection to the runtime."""
READ_BYTES = 1 << 16
MAX_SENDERS = 64
"""Senders at a time; the one that has been silent longest makes room."""
SILENT_TIME = 60.0
"""Seconds without traffic in either direction after which a sender is forgotten."""
WAITING = 16
"""Datagrams of one sender that may wait for the runtime; more are dropped, as in UDP."""
_MAX_PORT = 0xFFFF
_SPEC = re.compile(
    r"(?:(?P<local>[0-9]{0,5}):)?(?P<remote>[0-9]{1,5}|udp:[0-9]{1,5}|unix:[^:]+:/.*)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Spec:
    """One argument. `local` is the local port, 0 for any free one."""

    local: int
    target: Target


def parse(text: str) -> Spec:
    """`[LOCAL:]REMOTE`; CommandError."""
    match = _SPEC.fullmatch(text)
    try:
        target = decode_target(match["remote"] if match else "")
    except ValueError:
        wanted = "PORT, LOCAL:PORT, udp:PORT or unix:CONTAINER:/PATH"
        raise CommandError(f"{text!r} is not {wanted}", 2) from None
    assert match is not None
    local = target.port if match["local"] is None else int(match["local"] or 0)
    if local > _MAX_PORT:
        raise CommandError(f"{text!r}: {local} is not a port number", 2)
    return Spec(local, target)


async def forward(session: CliSession, options: ForwardOptions) -> None:
    """Listen until the command is interrupted."""
    specs = [parse(text) for text in options.ports]
    async with session.connect() as connection:
        pod = await lookup.find_pod(connection, options.pod)
        # Fail now, not at the first connection, if the runtime refuses.
        await streams.forward_url(connection, pod.id, [spec.target for spec in specs])

        def dial(target: Target) -> contextlib.AbstractAsyncContextManager[streams.ForwardedConnection]:
            return streams.forward(connection, pod.id, target, options.transport.value, options.ca_file)

        async with contextlib.AsyncExitStack() as stack:
            for spec in specs:
                listener = Datagrams if spec.target.kind == "udp" else ForwardedSocket
                await stack.enter_async_context(_listening(listener(spec, dial), options.address, spec))
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def _listening(listener: ForwardedSocket | Datagrams, address: str, spec: Spec) -> AsyncIterator[None]:
    try:
        host, port = await listener.listen(address)
    except OSError as error:
        raise CommandError(f"cannot listen on {address}:{spec.local}: {error.strerror or error}") from error
    print(f"Forwarding from {f'[{host}]' if ':' in host else host}:{port} -> {spec.target}", flush=True)
    try:
        yield
    finally:
        await listener.close()


class ForwardedSocket:
    """A local TCP socket. Each of its connections has one in the pod."""

    def __init__(self, spec: Spec, dial: Dial) -> None:
        self._spec = spec
        self._dial = dial
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, address: str) -> tuple[str, int]:
        """Where; OSError."""
        self._server = await asyncio.start_server(self._accepted, address, self._spec.local, limit=READ_BYTES)
        host, port, *_ = self._server.sockets[0].getsockname()
        return host, port

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            async with self._room, self._dial(self._spec.target) as peer:
                await _both_ways(reader, writer, peer)
        except ClientError as error:
            _tell(self._spec, error)
        except (OSError, asyncio.CancelledError):
            pass  # the client has gone, or we are ending
        finally:
            writer.transport.abort()


async def _both_ways(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: streams.ForwardedConnection
) -> None:
    """Copy both ways until each has ended, or one is broken."""

    async def up() -> None:
        while data := await reader.read(READ_BYTES):
            await peer.write(data)
        await peer.close()

    async def down() -> None:
        async for data in peer:
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    ways = [asyncio.ensure_future(way) for way in (up(), down())]
    try:
        await asyncio.gather(*ways)
        writer.close()
        await writer.wait_closed()
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


class Datagrams(asyncio.DatagramProtocol):
    """A local UDP socket. Each of its senders has a socket of its own in the pod."""

    def __init__(self, spec: Spec, dial: Dial) -> None:
        self._spec = spec
        self._dial = dial
        self._transport: asyncio.DatagramTransport | None = None
        self._senders: dict[Any, _Sender] = {}

    async def listen(self, address: str) -> tuple[str, int]:
        """Where; OSError."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, (address, self._spec.local))
        host, port, *_ = self._transport.get_extra_info("sockname")
        return host, port

    async def close(self) -> None:
        """Forget all senders."""
        if self._transport is not None:
            self._transport.abort()
        senders = list(self._senders.values())
        for sender in senders:
            sender.task.cancel()
        await asyncio.gather(*(sender.task for sender in senders), return_exceptions=True)

    def datagram_received(self, data: bytes, address: Any) -> None:
        sender = self._senders.get(address)
        if sender is None:
            while len(self._senders) >= MAX_SENDERS:
                oldest = min(self._senders, key=lambda known: self._senders[known].active)
                self._senders.pop(oldest).task.cancel()
            sender = self._senders[address] = _Sender()
            sender.task = asyncio.ensure_future(self._serve(address, sender))
        sender.active = time.monotonic()
        with contextlib.suppress(asyncio.QueueFull):
            sender.waiting.put_nowait(data)

    async def _serve(self, address: Any, sender: _Sender) -> None:
        try:
            async with self._dial(self._spec.target) as peer:
                await _until_first(sender.up(peer), self._down(address, sender, peer), sender.silence())
        except ClientError as error:
            _tell(self._spec, error)
        finally:
            if self._senders.get(address) is sender:
                del self._senders[address]

    async def _down(self, address: Any, sender: _Sender, peer: streams.ForwardedConnection) -> None:
        reader = DatagramReader()
        async for data in peer:
            for payload in reader.receive(data):
                sender.active = time.monotonic()
                if self._transport is not None:
                    self._transport.sendto(payload, address)


class _Sender:
    """A local sender of datagrams."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[bytes] = asyncio.Queue(WAITING)
        self.active = time.monotonic()

    async def up(self, peer: streams.ForwardedConnection) -> None:
        while True:
            await peer.write(encode_datagram(await self.waiting.get()))

    async def silence(self) -> None:
        """Return after that many seconds without traffic."""
        left = SILENT_TIME
        while left > 0:
            await asyncio.sleep(left)
            left = self.active + SILENT_TIME - time.monotonic()


async def _until_first(*ways: Coroutine[Any, Any, None]) -> None:
    """Wait until one has ended, raise its error and cancel the others."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell(spec: Spec, error: ClientError) -> None:
    say(clean(f"crib: {spec.target}: {' '.join(error.message.split())}"))
