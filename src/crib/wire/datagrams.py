"""Datagrams on a stream, as crib forwards UDP: the length in 2 bytes, big-endian, then the payload."""

from __future__ import annotations

from collections.abc import Iterator

MAX_DATAGRAM = 65507
"""Bytes of a UDP payload at most (RFC 768 over IPv4)."""
_HEAD = 2


def encode_datagram(payload: bytes) -> bytes:
    """The frame of one datagram, which may be empty; ValueError when it is longer than UDP carries."""
    if len(payload) > MAX_DATAGRAM:
        raise ValueError(f"a datagram of {len(payload)} bytes is longer than {MAX_DATAGRAM}")
    return len(payload).to_bytes(_HEAD, "big") + payload


class DatagramReader:
    """Bytes in, whole datagrams out; holds one unfinished frame at most."""

    def __init__(self) -> None:
        self._rest = b""

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Payloads that `data` completes. ValueError for a length that UDP does not have: nothing follows."""
        held = self._rest + data
        at = 0
        try:
            while len(held) - at >= _HEAD:
                length = int.from_bytes(held[at : at + _HEAD], "big")
                if length > MAX_DATAGRAM:
                    raise ValueError(f"a datagram of {length} bytes is longer than {MAX_DATAGRAM}")
                end = at + _HEAD + length
                if len(held) < end:
                    break
                payload, at = held[at + _HEAD : end], end
                yield payload
        finally:
            self._rest = held[at:]
