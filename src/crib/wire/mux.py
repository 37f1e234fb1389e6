"""NRI's multiplexer: several connections within one, each by its number. Bytes in, bytes by connection out.

Source: the NRI project's pkg/net/multiplex. A frame is `connection:32 length:32` and as many bytes,
big-endian. There is no opening, no closing and no flow control: both ends know the numbers, and what comes
for a number that this end does not use is dropped. Number 0 is reserved.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # the agent in a VM's guest imports this, and as little as it can
    from collections.abc import Iterator

PLUGIN_SERVICE = 1
"""The connection that the runtime calls plugins on."""
RUNTIME_SERVICE = 2
"""The connection that a plugin calls the runtime on."""
HEADER_BYTES = 8
MAX_PAYLOAD_BYTES = (4 << 20) + 10
"""A whole frame of ttrpc."""
FIRST_BYTES = 4096
"""Of one message's first frame. A peer in Go reads the start of each message of ttrpc into a buffer of this
size, and refuses a frame with more or with bytes of two messages. What is left of the message may be one
frame.
"""

_HEADER = struct.Struct(">II")


class Malformed(ValueError):
    """These bytes are no multiplexed connection."""


def frames(connection: int, message: bytes) -> bytes:
    """One message on a connection, which has at most `MAX_PAYLOAD_BYTES`."""
    if len(message) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a message of {len(message)} bytes, at most {MAX_PAYLOAD_BYTES} are sent in one")
    first, rest = message[:FIRST_BYTES], message[FIRST_BYTES:]
    data = _HEADER.pack(connection, len(first)) + first
    return data + _HEADER.pack(connection, len(rest)) + rest if rest else data


class MuxReader:
    """Bytes of the common connection in, pieces of the connections within it out.

    A piece is given as it comes: nothing is held but a header that is not complete.
    """

    def __init__(self) -> None:
        self._header = b""
        self._connection = 0
        self._left = 0

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Connections and their bytes, in order. Malformed after them, at a length that no frame has."""
        at = 0
        while at < len(data):
            if not self._left:
                missing = HEADER_BYTES - len(self._header)
                self._header += data[at : at + missing]
                at += missing
                if len(self._header) < HEADER_BYTES:
                    break
                self._connection, self._left = _HEADER.unpack(self._header)
                self._header = b""
                if self._left > MAX_PAYLOAD_BYTES:
                    raise Malformed(f"a frame of {self._left} bytes on connection {self._connection}")
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            yield self._connection, piece
