"""One command in a container, from its arguments to its exit code and output."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from crib.client import streams
from crib.client.connection import MAX_MESSAGE
from crib.client.deadlines import left_of
from crib.client.errors import Exhausted, TimedOut
from crib.client.specs import CommandSpec
from crib.client.streams import ExecAs, StreamOptions
from crib.client.views import CommandResult
from crib.stubs.runtime.v1.api_pb2 import ExecSyncRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.client.connection import Connection
    from crib.client.streams import Reader

MAX_OUTPUT = MAX_MESSAGE
"""Bytes of a command's output and errors together; for more there is `streams.exec`."""
MARGIN = 10.0
"""Seconds beyond a command's time in which the runtime has to say that it has ended it."""


async def execute(
    connection: Connection,
    container_id: str,
    command: Sequence[str] | CommandSpec,
    stdin: bytes | None,
    timeout: float | None,
) -> CommandResult:
    """Run it to its end: by ExecSync, or over streams where it reads something, or differs (CommandSpec).

    `timeout` is in seconds, None for no limit. TimedOut ends the command; Exhausted beyond MAX_OUTPUT.
    """
    spec = command if isinstance(command, CommandSpec) else CommandSpec(command)
    argv, differently = spec.command, ExecAs(spec.user, spec.env, spec.workdir)
    if stdin is None and differently == ExecAs():
        return await _by_call(connection, container_id, argv, timeout)
    limit = left_of(None) if timeout is None else timeout
    try:
        async with asyncio.timeout(limit):
            options = StreamOptions(stdin=stdin is not None)
            async with streams.exec(connection, container_id, argv, options, differently) as session:
                return await _to_the_end(session, stdin, argv[0])
    except TimeoutError:
        raise TimedOut(f"{argv[0]!r} in container {container_id[:12]} still runs after {limit:g} s") from None


async def _by_call(
    connection: Connection, container_id: str, argv: Sequence[str], timeout: float | None
) -> CommandResult:
    # the CRI counts whole seconds, and 0 is no limit
    seconds = 0 if timeout is None else max(1, math.ceil(timeout))
    request = ExecSyncRequest(container_id=container_id, cmd=argv, timeout=seconds)
    limit = seconds + MARGIN if seconds else 0.0
    reply = await connection.call(connection.runtime.ExecSync, request, limit)
    return CommandResult(reply.exit_code, reply.stdout, reply.stderr)


async def _to_the_end(session: streams.Session, stdin: bytes | None, name: str) -> CommandResult:
    out, err = bytearray(), bytearray()

    async def take(reader: Reader | None, into: bytearray) -> None:
        assert reader is not None
        async for data in reader:
            into += data
            if len(out) + len(err) > MAX_OUTPUT:
                raise Exhausted(f"{name!r} wrote more than {MAX_OUTPUT} bytes")

    readers = asyncio.gather(take(session.stdout, out), take(session.stderr, err))
    writer = asyncio.ensure_future(_feed(session.stdin, stdin))
    try:
        await readers
        return CommandResult(await session.wait(), bytes(out), bytes(err))
    finally:
        for task in (readers, writer):
            task.cancel()
        await asyncio.gather(readers, writer, return_exceptions=True)


async def _feed(stdin: streams.Writer | None, data: bytes | None) -> None:
    """A command that ends without reading all of it is its own affair."""
    if stdin is not None and data is not None:
        await stdin.write(data)
        await stdin.close()
