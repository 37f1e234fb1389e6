"""One question to a server, over a connection that is there for nothing else."""

from __future__ import annotations

import asyncio

from crib.rpc.codes import Code
from crib.wire.http2 import frames, hpack
from crib.wire.http2.frames import FrameReader, Http2Error
from crib.wire.http2.hpack import BadHeaders, HeaderReader

READ_BYTES = 64 << 10
_STREAM = 1


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, agent: str
) -> tuple[Code, str]:
    """What a call with an empty request ends with; UNAVAILABLE if the server breaks off."""
    headers = b"".join(
        hpack.literal(name, value)
        for name, value in (
            *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")),
            *(("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", agent)),
        )
    )
    writer.write(
        frames.PREFACE
        + frames.settings({})
        + frames.frame(frames.HEADERS, frames.END_HEADERS, _STREAM, headers)
        + frames.frame(frames.DATA, frames.END_STREAM, _STREAM, bytes(5))
    )
    try:
        return await _ending(reader)
    except (Http2Error, BadHeaders, OSError) as error:
        return Code.UNAVAILABLE, str(error)


async def _ending(reader: asyncio.StreamReader) -> tuple[Code, str]:
    """From the trailers, which end the call."""
    pieces, headers = FrameReader(is_client=True), HeaderReader()
    while data := await reader.read(READ_BYTES):
        for found in pieces.read(data):
            if found.kind == frames.HEADERS:
                said = dict(headers.read(frames.without_padding(found)))
                if found.flags & frames.END_STREAM:
                    code = said.get("grpc-status", "")
                    return Code(int(code)) if code.isdecimal() else Code.UNKNOWN, said.get("grpc-message", "")
            elif found.kind in (frames.RST_STREAM, frames.GOAWAY):
                return Code.UNAVAILABLE, "the server ended the call"
    return Code.UNAVAILABLE, "the server closed the connection"
