"""An agent as the guest has one, at the other end of a pair of sockets: greetings, frames, and its calls."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.server import Services, TtrpcServer
from crib.vm.shim.link import CALLS, GREETINGS, AgentCarrier, AgentLink, frames
from crib.wire import mux


def greeting(generation: int, version: int = 1) -> bytes:
    """As proto/vm/guest.proto has it."""
    numbers = b"\x0d" + version.to_bytes(4, "little") + b"\x15" + generation.to_bytes(4, "little")
    return numbers + b"\x1a\x10" + bytes(range(16))


class FakeAgent:
    """The guest's end."""

    def __init__(self, trunk: SocketCarrier, keeper: TaskKeeper) -> None:
        self.trunk = trunk
        self.answered: asyncio.Queue[bytes] = asyncio.Queue()
        """Greetings that came back."""
        self.longest = 0
        """Bytes of a frame."""
        self._keeper = keeper
        self._carrier: AgentCarrier | None = None
        self._awaited = self._data = b""
        self._services: Services = {}
        trunk.attach(self)

    def greet(self, generation: int, services: Services) -> bytes:
        """Begin anew; calls are served from now on."""
        data = greeting(generation)
        self._awaited, self._services = data, services
        self._carrier = None
        self.trunk.put(frames(GREETINGS, data))
        return data

    def received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= mux.HEADER_BYTES:
            number, length = (int.from_bytes(self._data[at : at + 4]) for at in (0, 4))
            if len(self._data) < mux.HEADER_BYTES + length:
                return
            frame = self._data[mux.HEADER_BYTES : mux.HEADER_BYTES + length]
            self._data = self._data[mux.HEADER_BYTES + length :]
            self.longest = max(self.longest, mux.HEADER_BYTES + length)
            if number == GREETINGS:
                self.answered.put_nowait(frame)
                if frame == self._awaited:  # what came before it was for another agent
                    self._carrier = AgentCarrier(self.trunk)
                    TtrpcServer(self._carrier, self._services, self._keeper.part)
            elif number == CALLS and self._carrier is not None:
                self._carrier.take(frame)

    def lost(self, reason: str) -> None:
        pass


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[AgentLink, FakeAgent]]:
    """The host's end and the guest's."""
    host, guest = socket.socketpair()
    loop, keeper = asyncio.get_running_loop(), TaskKeeper()
    _, host_carrier = await loop.create_unix_connection(SocketCarrier, sock=host)
    _, guest_carrier = await loop.create_unix_connection(SocketCarrier, sock=guest)
    link, agent = AgentLink(host_carrier), FakeAgent(guest_carrier, keeper)
    try:
        yield link, agent
    finally:
        link.close()
        guest_carrier.abort("the test is over")
        await keeper.close(1)
