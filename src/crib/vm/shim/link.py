"""The connection to the guest's agent: greetings and ttrpc within one serial port (proto/vm/guest.proto).

An agent that was started again greets anew, at any time. Then all calls to the one before fail, and there is
another client.
"""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import dataclass

from crib.ttrpc.carriers import Receiver, SocketCarrier
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.errors import PeerLost
from crib.wire import mux

GREETINGS = 0
CALLS = 1
VERSION = 1
GREETING_BYTES = 28
FRAME_BYTES = 32768
"""A larger write to a virtio-serial port is not whole."""
_PAYLOAD = FRAME_BYTES - mux.HEADER_BYTES
_HEADER = struct.Struct(">II")
_GREETING = struct.Struct("<BIBI2s16s")
_TAGS = (0x0D, 0x15, b"\x1a\x10")
"""Of fields 1 and 2 (fixed32), and of field 3 with its length."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an agent begins with."""

    generation: int
    frame: bytes
    """Its bytes, which are the answer too."""


def read_greeting(data: bytes) -> Greeting:
    """ValueError if it is none, or one of another version."""
    first, version, second, generation, third, _nonce = _GREETING.unpack(data)
    if (first, second, third) != _TAGS:
        raise ValueError(f"a greeting that is none: {data.hex()}")
    if version != VERSION:
        raise ValueError(f"the agent speaks version {version}, and version {VERSION} is spoken here")
    return Greeting(generation, data)


def frames(connection: int, message: bytes) -> bytes:
    """A message in as many frames as it takes."""
    parts: list[bytes] = []
    for at in range(0, len(message), _PAYLOAD):
        piece = message[at : at + _PAYLOAD]
        parts += (_HEADER.pack(connection, len(piece)), piece)
    return b"".join(parts)


class AgentCarrier:
    """The connection of calls with one agent: see FrameCarrier."""

    def __init__(self, trunk: SocketCarrier) -> None:
        self._trunk = trunk
        self._receiver: Receiver | None = None
        self._lost = ""

    def take(self, data: bytes) -> None:
        """Bytes have come."""
        if self._receiver is not None and not self._lost:
            self._receiver.received(data)

    def lose(self, reason: str) -> None:
        """The agent is gone. Safe to repeat."""
        if not self._lost:
            self._lost = reason
            if self._receiver is not None:
                self._receiver.lost(reason)

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._lost:
            receiver.lost(self._lost)

    @property
    def is_full(self) -> bool:
        return self._trunk.is_full

    def put(self, message: bytes) -> None:
        if self._lost:
            raise PeerLost(self._lost)
        self._trunk.put(frames(CALLS, message))

    async def drain(self) -> None:
        await self._trunk.drain()
        if self._lost:
            raise PeerLost(self._lost)

    def pause(self) -> None:
        self._trunk.pause()

    def resume(self) -> None:
        self._trunk.resume()

    def close(self) -> None:
        self.lose("the connection was closed at this end")

    def abort(self, reason: str) -> None:
        """Nothing but a new agent helps: there is no way to begin anew with this one."""
        self._trunk.abort(reason)


class AgentLink:
    """A guest's agents, one after the other."""

    def __init__(self, trunk: SocketCarrier) -> None:
        self._trunk = trunk
        self._reader = mux.MuxReader()
        self._greeting = bytearray()
        self._carrier: AgentCarrier | None = None
        self._client: TtrpcClient | None = None
        self._news = asyncio.Event()
        self.greeted = 0
        """When the last one did, in nanoseconds since the epoch."""
        self.generation = 0
        """Of the agent that is there; 0: there was none yet."""
        self.why_lost = ""
        """Why there will be no agent any more."""
        trunk.attach(self)

    async def client(self, after: int = 0) -> TtrpcClient:
        """That of the agent, once there is one of a later generation than `after`. PeerLost if none comes."""
        while self._client is None or self.generation <= after:
            if self.why_lost:
                raise PeerLost(self.why_lost)
            await self._news.wait()
            self._news.clear()
        return self._client

    def close(self) -> None:
        """End all of it. Safe to repeat."""
        self._trunk.close()

    # what the trunk calls

    def received(self, data: bytes) -> None:
        try:
            for number, piece in self._reader.receive(data):
                if number == GREETINGS:
                    self._greeted(piece)
                elif number == CALLS and self._carrier is not None:
                    self._carrier.take(piece)
        except (mux.Malformed, ValueError) as error:
            self._trunk.abort(f"the guest sent what is not understood: {error}")

    def lost(self, reason: str) -> None:
        self.why_lost = reason
        if self._carrier is not None:
            self._carrier.lose(reason)
        self._news.set()

    def _greeted(self, piece: bytes) -> None:
        self._greeting += piece
        if len(self._greeting) < GREETING_BYTES:
            return
        greeting = read_greeting(bytes(self._greeting))
        self._greeting.clear()
        if self._carrier is not None:
            self._carrier.lose("the guest's agent was started again")
        self._trunk.put(frames(GREETINGS, greeting.frame))
        self._carrier = AgentCarrier(self._trunk)
        self._client = TtrpcClient(self._carrier)
        self.generation, self.greeted = greeting.generation, time.time_ns()
        self._news.set()
