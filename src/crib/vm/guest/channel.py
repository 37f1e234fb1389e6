"""The agent's end of the connection to the host: greetings and calls in, frames out. Bytes in, bytes out.

Frames of `crib.wire.mux` hold greetings (number 0) and ttrpc (number 1), see proto/vm/guest.proto. This has
what the agent needs of ttrpc, which is little: each call has one request and one answer.
"""

from __future__ import annotations

from crib.vm.guest import codec
from crib.vm.guest.messages import GREETING
from crib.wire import mux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

VERSION = 1
GREETINGS = 0
CALLS = 1
FRAME_BYTES = 32768
"""Of one frame with its header: the most that one write to a virtio port takes as a whole."""
NONCE_BYTES = 16
MAX_MESSAGE_BYTES = 4 << 20
HEADER_BYTES = 10
REQUEST, RESPONSE = 1, 2

REQUEST_TABLE = {1: ("service", codec.STRING), 2: ("method", codec.STRING), 3: ("payload", codec.BYTES)}
STATUS_TABLE = {1: ("code", codec.INT), 2: ("message", codec.STRING)}
RESPONSE_TABLE: dict[int, Any] = {1: ("status", STATUS_TABLE), 2: ("payload", codec.BYTES)}


class Broken(ValueError):
    """What came is not what the protocol has. The connection cannot go on."""


class Channel:
    """Bytes of the port in, calls out; answers in, frames out."""

    def __init__(self, generation: int, nonce: bytes) -> None:
        payload = codec.encode(GREETING, {"version": VERSION, "generation": generation, "nonce": nonce})
        self.greeting = frame(GREETINGS, payload)
        """What the agent sends first, and the host after it."""
        self._greeted = False
        self._held = b""
        self._mux = mux.MuxReader()
        self._calls = bytearray()

    @property
    def is_greeted(self) -> bool:
        """Whether the host has answered the greeting."""
        return self._greeted

    def receive(self, data: bytes) -> Iterator[tuple[int, str, str, bytes]]:
        """The stream, service, method and request of each call that is complete. Broken if that cannot be."""
        if not self._greeted:
            data = self._held + data
            at = data.find(self.greeting)
            if at < 0:  # what an agent before this one was sent
                self._held = data[max(0, len(data) - len(self.greeting) + 1) :]
                return
            self._greeted, self._held = True, b""
            data = data[at + len(self.greeting) :]
        try:
            for number, piece in self._mux.receive(data):
                if number == CALLS:
                    self._calls += piece
                    yield from self._complete()
        except (mux.Malformed, codec.Malformed) as error:
            raise Broken(str(error)) from None

    def _complete(self) -> Iterator[tuple[int, str, str, bytes]]:
        calls = self._calls
        while len(calls) >= HEADER_BYTES:
            length = int.from_bytes(calls[:4], "big")
            if length > MAX_MESSAGE_BYTES:
                raise Broken(f"a message of {length} bytes")
            if len(calls) < HEADER_BYTES + length:
                return
            stream, kind = int.from_bytes(calls[4:8], "big"), calls[8]
            data = bytes(calls[HEADER_BYTES : HEADER_BYTES + length])
            del calls[: HEADER_BYTES + length]
            if kind == REQUEST:
                request = codec.decode(REQUEST_TABLE, data)
                yield stream, request["service"], request["method"], request["payload"]


def answer(stream: int, payload: bytes) -> list[bytes]:
    """The frames of a call's answer."""
    return _response(stream, {"payload": payload})


def refusal(stream: int, code: int, message: str) -> list[bytes]:
    """The frames of an error as a call's answer."""
    return _response(stream, {"status": {"code": code, "message": message}})


def frame(number: int, payload: bytes) -> bytes:
    """One frame of the multiplexed connection."""
    return number.to_bytes(4, "big") + len(payload).to_bytes(4, "big") + payload


def _response(stream: int, response: dict[str, Any]) -> list[bytes]:
    data = codec.encode(RESPONSE_TABLE, response)
    message = len(data).to_bytes(4, "big") + stream.to_bytes(4, "big") + bytes((RESPONSE, 0)) + data
    room = FRAME_BYTES - mux.HEADER_BYTES
    return [frame(CALLS, message[at : at + room]) for at in range(0, len(message), room)]
