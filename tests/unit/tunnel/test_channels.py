"""Messages of a WebSocket's channels, wherever they are cut."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from crib.tunnel.inbox import Room
from crib.tunnel.websocket import PROTOCOL_ERROR, Channels, Part, WebSocket
from crib.wire.channel_messages import V5

BOUND = 60.0


class Socket:
    """In a WebSocket's place: what comes of a server, and what it is told."""

    role = "client"

    def __init__(self, *parts: Part) -> None:
        self._parts = list(parts)
        self.closed: list[int] = []

    async def part(self) -> Part | None:
        return self._parts.pop(0) if self._parts else None

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)


async def after(*pieces: tuple[bytes, bool]) -> tuple[Channels, Socket]:
    """Of each message its pieces, the last one marked."""
    parts, first = [], True
    for data, last in pieces:
        parts.append(Part(data, first, last))
        first = last
    socket = Socket(*parts)
    channels = Channels(cast(WebSocket, socket), V5, (1, 3), Room(1 << 20))
    await asyncio.wait_for(channels.run(), BOUND)
    return channels, socket


async def test_messages_are_put_together_wherever_they_are_cut() -> None:
    channels, socket = await after(
        (b"", False),
        (b"\x01a", False),
        (b"b", True),
        (b"\x07not ours", True),
        (b"", True),
        (b"\x01", True),
        (b"\x03\xff", False),
        (b"\xff\x01", True),
        (b"\xff", False),
        (b"\x01", True),
        (b"\x01late", True),
    )
    assert await channels.by_number[1].read() == b"ab"
    assert await channels.by_number[1].read() == b""
    assert await channels.by_number[3].read() == b"\xff\xff\x01"
    assert socket.closed == []


@pytest.mark.parametrize(
    "pieces",
    [
        ((b"\xff\x01\x02", True),),
        ((b"\xff", True),),
        ((b"\xff\x01", False), (b"x", True)),
        ((b"P", True),),
    ],
)
async def test_a_malformed_message_breaks_all_channels(pieces: tuple[tuple[bytes, bool], ...]) -> None:
    channels, socket = await after(*pieces)
    for channel in channels.by_number.values():
        with pytest.raises(ConnectionResetError, match="the runtime broke the protocol"):
            await channel.read()
    assert socket.closed == [PROTOCOL_ERROR]
