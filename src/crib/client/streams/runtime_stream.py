"""One stream of a runtime, whatever it comes over: to be read, and to be written."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from crib.client.errors import RuntimeFailure, Unavailable
from crib.client.streams.link import Headers
from crib.tunnel.inbox import Inbox
from crib.tunnel.spdy import ClientSession, SpdyStream
from crib.tunnel.websocket import Channel
from crib.wire.remotecommand import CREATION_SECONDS

UNREAD_BYTES = 4 << 20
"""Held of all streams of a connection together for readers that are late; then its socket is not read. Most
runtimes know no windows, so that is the only way to hold them up."""


class Reader(Protocol):
    """What comes; also to be used with `async for`."""

    async def read(self) -> bytes:
        """The available bytes, at least one; empty at the end and from then on. Unavailable if broken."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Writer(Protocol):
    """What goes."""

    async def write(self, data: bytes | memoryview) -> None:
        """Return when there is room for more. Unavailable if the other end takes nothing any more."""
        ...

    async def close(self) -> None:
        """No more comes: the other side reads an end. Safe to repeat, and when the command has ended."""
        ...


class RuntimeStream:
    """See Reader and Writer."""

    def __init__(self, stream: Channel | SpdyStream, outcome: Inbox) -> None:
        """`outcome` says how all ended. Runtimes reset streams once they have sent it: that is an end too."""
        self._stream = stream
        self._outcome = outcome
        stream.when_broken(self._broke)

    @property
    def has_begun(self) -> bool:
        """Some bytes came."""
        return self._stream.has_begun

    async def read(self) -> bytes:
        try:
            return await self._stream.read()
        except ConnectionError as error:
            raise Unavailable(str(error)) from error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def write(self, data: bytes | memoryview) -> None:
        try:
            await self._stream.write(data)
        except ConnectionError as error:
            raise Unavailable(self._stream.broken or str(error)) from error

    async def close(self) -> None:
        with contextlib.suppress(ConnectionError):  # the other end has gone, which the caller cannot know
            await self._stream.close()

    def _broke(self) -> None:
        if self._outcome.has_begun:
            self._stream.end()


async def open_streams(session: ClientSession, wanted: Sequence[Headers]) -> list[RuntimeStream]:
    """Open streams; the first one reports how all of them ended. RuntimeFailure if the runtime refuses them,
    Unavailable.
    """
    try:
        opened = [await session.open(headers) for headers in wanted]
    except ConnectionError as error:
        raise Unavailable(f"no stream can be opened: {error}") from error
    try:
        async with asyncio.timeout(CREATION_SECONDS):
            for stream in opened:
                await session.accepted(stream)
    except TimeoutError:
        raise Unavailable(f"the runtime did not take a stream within {CREATION_SECONDS:g} s") from None
    except ConnectionError as error:
        raise RuntimeFailure(f"the runtime refused a stream: {error}") from error
    return [RuntimeStream(stream, opened[0]) for stream in opened]
