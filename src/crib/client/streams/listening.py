"""Local sockets whose connections continue in a pod."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from crib.client.connection import Connection
from crib.client.errors import ClientError, RuntimeFailure
from crib.client.streams.forwarding import ForwardedConnection, forward, forward_url
from crib.wire.portforward import DatagramReader, Target, encode_datagram

MAX_CONNECTIONS = 256
"""Connections at a time; more wait. Each has a connection to the runtime."""
READ_BYTES = 1 << 16
MAX_SENDERS = 64
"""Senders at a time; the one that has been silent longest makes room."""
SILENT_TIME = 60.0
"""Seconds without traffic in either direction after which a sender is forgotten."""
WAITING = 16
"""Datagrams of one sender that may wait for the runtime; more are dropped, as in UDP."""

Dial = Callable[[Target], contextlib.AbstractAsyncContextManager[ForwardedConnection]]
Tell = Callable[[Target, ClientError], None]
"""Who is told of a connection that failed: the listener goes on."""


@contextlib.asynccontextmanager
async def forwarded(
    connection: Connection, pod_id: str, port: int, local: tuple[str, int]
) -> AsyncIterator[tuple[str, int]]:
    """A local address, while the block lasts, whose connections go on to a port of the pod.

    Of local port 0 it is a free one. Who connects in vain reads the end at once. ClientError.
    """
    target = Target("tcp", port)
    await forward_url(connection, pod_id, (target,))  # fails now if the runtime refuses
    listener = ForwardedSocket(target, functools.partial(forward, connection, pod_id), _pass_over)
    try:
        where = await listener.listen(*local)
    except OSError as error:
        words = error.strerror or str(error)
        raise RuntimeFailure(f"cannot listen on {local[0]}:{local[1]}: {words}") from error
    try:
        yield where
    finally:
        await listener.close()


def _pass_over(target: Target, error: ClientError) -> None:
    """Nobody is there to be told."""


class ForwardedSocket:
    """A local TCP socket. Each of its connections has one in the pod."""

    def __init__(self, target: Target, dial: Dial, tell: Tell) -> None:
        self._target = target
        self._dial = dial
        self._tell = tell
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, address: str, port: int) -> tuple[str, int]:
        """Where (of port 0 it is any free one); OSError."""
        self._server = await asyncio.start_server(self._accepted, address, port, limit=READ_BYTES)
        host, found, *_ = self._server.sockets[0].getsockname()
        return host, found

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
            async with self._room, self._dial(self._target) as peer:
                await _both_ways(reader, writer, peer)
        except ClientError as error:
            self._tell(self._target, error)
        except (OSError, asyncio.CancelledError):
            pass  # the client has gone, or we are ending
        finally:
            writer.transport.abort()


async def _both_ways(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: ForwardedConnection
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

    def __init__(self, target: Target, dial: Dial, tell: Tell) -> None:
        self._target = target
        self._dial = dial
        self._tell = tell
        self._transport: asyncio.DatagramTransport | None = None
        self._senders: dict[Any, _Sender] = {}

    async def listen(self, address: str, port: int) -> tuple[str, int]:
        """Where (of port 0 it is any free one); OSError."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, (address, port))
        host, found, *_ = self._transport.get_extra_info("sockname")
        return host, found

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
            async with self._dial(self._target) as peer:
                await _until_first(sender.up(peer), self._down(address, sender, peer), sender.silence())
        except ClientError as error:
            self._tell(self._target, error)
        finally:
            if self._senders.get(address) is sender:
                del self._senders[address]

    async def _down(self, address: Any, sender: _Sender, peer: ForwardedConnection) -> None:
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

    async def up(self, peer: ForwardedConnection) -> None:
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
