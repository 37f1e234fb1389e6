"""Several carriers within one, each by its number: how node plugins and their runtime call each other."""

from __future__ import annotations

from collections.abc import Iterable

from crib.ttrpc.carriers import FrameCarrier, Receiver
from crib.wire import mux

HELD_BYTES = 16 << 20
"""Of one connection within, while it is not read. There is no way to slow down one of
them: with more, the peer is cut off."""


class Mux:
    """The common connection, with all connections within it.

    They end together: none can be closed alone, for the peer would not be told.
    """

    def __init__(self, trunk: FrameCarrier, numbers: Iterable[int]) -> None:
        """What comes for other numbers is dropped."""
        self._trunk = trunk
        self._reader = mux.MuxReader()
        self._carriers = {number: MuxCarrier(trunk, number) for number in numbers}
        trunk.attach(self)

    def carrier(self, number: int) -> MuxCarrier:
        """The connection with this number."""
        return self._carriers[number]

    def received(self, data: bytes) -> None:
        try:
            for number, piece in self._reader.receive(data):
                if (carrier := self._carriers.get(number)) is not None:
                    carrier.take(piece)
        except mux.Malformed as error:
            self._trunk.abort(f"the peer sent what is no multiplexed connection: {error}")

    def lost(self, reason: str) -> None:
        for carrier in self._carriers.values():
            carrier.lose(reason)


class MuxCarrier:
    """One connection within."""

    def __init__(self, trunk: FrameCarrier, number: int) -> None:
        self._trunk = trunk
        self._number = number
        self._receiver: Receiver | None = None
        self._held = bytearray()
        self._paused = True
        self._lost: str | None = None

    # what the common connection calls

    def take(self, piece: bytes) -> None:
        """Bytes of this connection have come."""
        if self._receiver is not None and not self._paused:
            self._receiver.received(piece)
            return
        self._held += piece
        if len(self._held) > HELD_BYTES:
            self._held.clear()
            self._trunk.abort(
                f"the peer sent over {HELD_BYTES} bytes on connection {self._number} that nobody takes"
            )

    def lose(self, reason: str) -> None:
        """The common connection is gone."""
        self._lost = reason
        if self._receiver is not None:
            self._receiver.lost(reason)

    # what its receiver uses

    def attach(self, receiver: Receiver) -> None:
        assert self._receiver is None, "a carrier has one receiver"
        self._receiver = receiver
        self.resume()
        if self._lost is not None:
            receiver.lost(self._lost)

    @property
    def is_full(self) -> bool:
        return self._trunk.is_full

    def put(self, message: bytes) -> None:
        self._trunk.put(mux.frames(self._number, message))

    async def drain(self) -> None:
        await self._trunk.drain()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        while self._held and not self._paused and self._receiver is not None:
            data = bytes(self._held)
            self._held.clear()
            self._receiver.received(data)

    def close(self) -> None:
        self._trunk.close()

    def abort(self, reason: str) -> None:
        self._trunk.abort(reason)
