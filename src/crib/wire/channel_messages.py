"""Several channels in one WebSocket: the subprotocols of Kubernetes, message by message.

Source: k8s.io/streaming's wsstream. A message begins with its channel: a byte, or in the base64 protocols the
character at `0` + channel, before data in base64. Version 5 adds the message `255, channel`, which
half-closes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crib.wire.spdy.reader import Buffer

MAX_MESSAGE = 1 << 20
"""Bytes of a message that a WebSocket should take; clients write 32 KiB."""
MAX_CHANNEL = 79
"""The highest channel: its character is still ASCII."""
_CLOSE = 255


class MalformedMessage(ValueError):
    """The message is none of its protocol's."""


@dataclass(frozen=True, slots=True)
class ChannelProtocol:
    """A WebSocket subprotocol. A client that names none gets the first one, whose name is empty."""

    name: str
    is_text: bool = False
    """Messages are text: base64 behind a character."""
    has_status: bool = False
    """The error channel of exec brings an object instead of words (version 4)."""
    has_close: bool = False
    """A channel can be half-closed (version 5)."""


UNNAMED = ChannelProtocol("")
CHANNEL = ChannelProtocol("channel.k8s.io")
BASE64 = ChannelProtocol("base64.channel.k8s.io", is_text=True)
V4 = ChannelProtocol("v4.channel.k8s.io", has_status=True)
V4_BASE64 = ChannelProtocol("v4.base64.channel.k8s.io", is_text=True, has_status=True)
V5 = ChannelProtocol("v5.channel.k8s.io", has_status=True, has_close=True)


@dataclass(frozen=True, slots=True)
class Message:
    """Data on a channel; `closes` says that it is the channel's end, and has no data."""

    channel: int
    data: bytes = b""
    closes: bool = False


def split_names(values: Iterable[str]) -> list[str]:
    """The names in the values of a header, which may have several with commas between them."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def choose(offered: Sequence[str], known: Sequence[ChannelProtocol]) -> ChannelProtocol | None:
    """The first that the client offered and we know; None when there is none. No offer is the offer of ``."""
    by_name = {protocol.name: protocol for protocol in known}
    return next((by_name[name] for name in offered or ("",) if name in by_name), None)


def encode_message(protocol: ChannelProtocol, channel: int, data: Buffer) -> bytes:
    """A message for `data`; for text protocols its bytes are ASCII."""
    if not 0 <= channel <= MAX_CHANNEL:
        raise MalformedMessage(f"there is no channel {channel}")
    if protocol.is_text:
        return bytes([ord("0") + channel]) + base64.b64encode(data)
    return b"".join((bytes([channel]), data))


def encode_close(protocol: ChannelProtocol, channel: int) -> bytes:
    """The message that half-closes a channel."""
    if not protocol.has_close:
        raise MalformedMessage(f"{protocol.name!r} cannot close a channel")
    return bytes([_CLOSE, channel])


def is_begun(protocol: ChannelProtocol, beginning: Buffer) -> bool:
    """Whether `decode_message` accepts this beginning of a message, and the rest is plain data."""
    return len(beginning) > 0 and not protocol.is_text and not (protocol.has_close and beginning[0] == _CLOSE)


def decode_message(protocol: ChannelProtocol, message: bytes) -> Message | None:
    """What a message says; None for an empty one, which means nothing. MalformedMessage."""
    if not message:
        return None
    channel = message[0]
    if protocol.has_close and channel == _CLOSE:
        if len(message) != 2 or message[1] > MAX_CHANNEL:
            raise MalformedMessage(f"{message[:10]!r} names no channel to close")
        return Message(message[1], closes=True)
    if protocol.is_text:
        channel -= ord("0")
    if not 0 <= channel <= MAX_CHANNEL:
        raise MalformedMessage(f"there is no channel {channel}")
    if not protocol.is_text:
        return Message(channel, message[1:])
    try:
        return Message(channel, base64.b64decode(message[1:], validate=True))
    except binascii.Error as error:
        raise MalformedMessage(f"a message for channel {channel} is not base64: {error}") from error
