"""Bytes between a client and a command, both ways, until the command has ended or the client has gone."""

from __future__ import annotations

import asyncio
import contextlib

from crib.ends import ByteSink, ByteSource, Session, TerminalStreams
from crib.model.errors import CannotExecute
from crib.tasks.groups import Beside, Group


async def carry(client: TerminalStreams, session: Session) -> int | None:
    """The exit code, once all output is with the client; None when the client went away before.

    Whatever is then left to do with the session is the caller's.
    """
    async with Beside() as beside:
        ended = beside.start("output and end", _ended(session, client.stdout, client.stderr))
        gone = beside.start("client's going", client.gone())
        beside.start("input", _fed(client.stdin, session.stdin))
        beside.start("sizes", _resize(client, session))
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        return ended.result() if ended.done() else None


async def drain(session: Session) -> int:
    """Read and drop what the command still writes, so that it does not block; its exit code."""
    return await _ended(session, None, None)


async def _ended(session: Session, stdout: ByteSink | None, stderr: ByteSink | None) -> int:
    """All output first, then the code: for a client the code is the end."""
    try:
        async with Group() as outputs:
            outputs.start("stdout", _copy(session.stdout, stdout))
            outputs.start("stderr", _copy(session.stderr, stderr))
        return await session.wait()
    except CannotExecute as error:
        return await refused(error, stdout, stderr)
    finally:
        for sink in (stdout, stderr):
            if sink is not None:
                with contextlib.suppress(OSError):
                    await sink.close()


async def refused(error: CannotExecute, stdout: ByteSink | None, stderr: ByteSink | None) -> int:
    """Tell the client what the runtime says of the program; the exit code that a shell would give."""
    if (sink := stderr or stdout) is not None:
        with contextlib.suppress(OSError):
            await sink.write(error.words.encode() + (b"\n" if stderr is not None else b"\r\n"))
    return error.code


async def _copy(source: ByteSource | None, sink: ByteSink | None) -> None:
    """To the end of the source, or until it breaks. What comes after the sink's reader has gone is dropped.

    So a client that no longer reads does not keep a command from writing, and a command that closed its input
    does not keep a client from sending.
    """
    with contextlib.suppress(ConnectionError):
        while source is not None and (data := await source.read()):
            if sink is not None:
                try:
                    await sink.write(data)
                except OSError:
                    sink = None


async def _fed(source: ByteSource | None, sink: ByteSink | None) -> None:
    await _copy(source, sink)
    if sink is not None:
        with contextlib.suppress(OSError):
            await sink.close()


async def _resize(client: TerminalStreams, session: Session) -> None:
    async for size in client.resizes():
        session.resize(size)
