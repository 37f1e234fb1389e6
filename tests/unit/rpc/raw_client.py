"""A client that sends and reads frames one by one, so that it can do what no client should."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crib.wire.http2 import frames, hpack
from crib.wire.http2.frames import Frame, FrameReader
from crib.wire.http2.hpack import HeaderReader
from tests.fakes.world import bounded

HEAD = {":method": "POST", ":scheme": "http", "te": "trailers", "content-type": "application/grpc"}


def head(path: str, **more: str) -> bytes:
    """Headers of a call."""
    fields = {**HEAD, ":path": path, **{name.replace("_", "-"): value for name, value in more.items()}}
    return b"".join(hpack.literal(name, value) for name, value in fields.items())


def message(content: bytes) -> bytes:
    """As gRPC writes it."""
    return b"\0" + len(content).to_bytes(4, "big") + content


class RawClient:
    """Of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames, self.headers = FrameReader(is_client=True), HeaderReader()
        self.seen: list[Frame] = []
        """What came and was not asked for yet."""

    def send(self, kind: int, flags: int, stream: int, content: bytes = b"") -> None:
        self.writer.write(frames.frame(kind, flags, stream, content))

    def call(self, stream: int, path: str, content: bytes | None = b"", **more: str) -> None:
        """Begin a call; with its request, unless that is None."""
        self.send(frames.HEADERS, frames.END_HEADERS, stream, head(path, **more))
        if content is not None:
            self.send(frames.DATA, frames.END_STREAM, stream, message(content))

    def allow(self, stream: int, size: int) -> None:
        """Let the server send more."""
        self.send(frames.WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))

    async def next(self, kind: int, stream: int) -> Frame:
        """The next frame of that kind; others before it stay."""
        while True:
            for number, found in enumerate(self.seen):
                if (found.kind, found.stream) == (kind, stream):
                    return self.seen.pop(number)
            await self._read()

    async def _read(self) -> None:
        try:
            async with bounded():
                data = await self.reader.read(65536)
        except (BrokenPipeError, ConnectionResetError):
            data = b""
        if not data:
            raise EOFError("the server closed the connection")
        self.seen += self._frames.read(data)

    async def ending(self, stream: int) -> tuple[bytes, dict[str, str]]:
        """All content of a call, and its trailers; what came is allowed again."""
        content = b""
        while True:
            for found in self.seen:
                if found.stream == stream and found.kind in (frames.DATA, frames.HEADERS):
                    break
            else:
                await self._read()
                continue
            self.seen.remove(found)
            if found.kind == frames.DATA:
                content += found.content
                if found.content:
                    self.allow(0, len(found.content))
                    self.allow(stream, len(found.content))
            elif found.flags & frames.END_STREAM:
                return content, dict(self.headers.read(found.content))

    async def fault(self) -> frames.EndReason:
        """Why the server ends the connection, which it then closes."""
        found = await self.next(frames.GOAWAY, 0)
        with contextlib.suppress(EOFError):
            while True:
                await self._read()
        return frames.EndReason(int.from_bytes(found.content[4:], "big"))


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[RawClient]:
    """One that has said hello."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(frames.PREFACE + frames.settings({}))
        yield RawClient(reader, writer)
    finally:
        writer.close()
