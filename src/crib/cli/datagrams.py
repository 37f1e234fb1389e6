"""The UDP sockets of `crib forward`: each sender has a socket of its own in the pod."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from crib.cli.output import clean
from crib.cli.session import say
from crib.client.errors import ClientError
from crib.wire.datagrams import DatagramReader, encode_datagram

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from crib.cli.forward import Dial, Spec
    from crib.client.streams import ForwardedConnection

MAX_SENDERS = 64
"""At a time; the one that was silent longest makes room."""
SILENT_TIME = 60.0
"""Seconds after which a sender that sent nothing and got nothing is forgotten."""
WAITING = 16
"""Datagrams of a sender that wait for the runtime; more are dropped, as UDP does."""


class ForwardedDatagrams(asyncio.DatagramProtocol):
    """A UDP socket here."""

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
            say(clean(f"crib: {self._spec.target}: {' '.join(error.message.split())}"))
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
    """Somebody here who sends datagrams."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[bytes] = asyncio.Queue(WAITING)
        self.active = time.monotonic()

    async def up(self, peer: ForwardedConnection) -> None:
        while True:
            await peer.write(encode_datagram(await self.waiting.get()))

    async def silence(self) -> None:
        """Returns when there was nothing for so long."""
        left = SILENT_TIME
        while left > 0:
            await asyncio.sleep(left)
            left = self.active + SILENT_TIME - time.monotonic()


async def _until_first(*ways: Coroutine[Any, Any, None]) -> None:
    """Returns when one has ended, or raises what it raised; the others are cancelled."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
