"""Pieces of encoded messages (protobuf encoding): for replies that are joined from parts that are kept."""

from __future__ import annotations

_SHORT = 1 << 10
"""Most lengths are below this."""


def encoded_field(tag: bytes, content: bytes) -> bytes:
    """A string or an encoded message as a field of another one; `tag` is its number, length-delimited."""
    return tag + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Base 128 varint."""
    if value < _SHORT:
        return _VARINTS[value]
    if value < 1 << 28:  # most of the rest, in half the time
        low, high = value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80
        if value < 1 << 14:
            return bytes((low, value >> 7))
        if value < 1 << 21:
            return bytes((low, high, value >> 14))
        return bytes((low, high, value >> 14 & 0x7F | 0x80, value >> 21))
    encoded = b""
    while value >= 1 << 28:
        low, high = value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80
        encoded += bytes((low, high, value >> 14 & 0x7F | 0x80, value >> 21 & 0x7F | 0x80))
        value >>= 28
    return encoded + varint(value)


_VARINTS = tuple(
    bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80, value >> 7)) for value in range(_SHORT)
)
