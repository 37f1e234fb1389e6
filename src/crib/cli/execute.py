"""`crib exec`: a command in a container, joined to this terminal or to pipes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crib.cli.local_streams import STDIN, join
from crib.cli.session import CommandError, say
from crib.cli.terminal import terminal_of
from crib.client import lookup, streams
from crib.stubs.runtime.v1.api_pb2 import ExecSyncRequest

if TYPE_CHECKING:
    from crib.cli.options import ExecOptions
    from crib.cli.session import CliSession
    from crib.client import Connection

MARGIN = 30.0
"""Seconds for the runtime to end a command whose time-out has passed."""


async def execute(session: CliSession, options: ExecOptions) -> int:
    """Run the command and give its exit code."""
    if options.timeout and (options.stdin or options.tty):
        raise CommandError("--timeout works only without --stdin and --tty", 2)
    async with session.connect() as connection:
        found = await lookup.find_container(connection, options.target, options.container)
        if options.timeout:
            return await _bounded(connection, found.container.id, options)
        wanted = streams.StreamOptions(
            _gets_terminal(options), options.stdin, transport=options.transport.value, ca_file=options.ca_file
        )
        async with streams.exec(connection, found.container.id, options.words, wanted) as remote:
            code = await join(remote, wanted)
    assert code is not None
    return code


def _gets_terminal(options: ExecOptions) -> bool:
    """As asked for; but the end of an input that is no terminal cannot be told to one, so there is none."""
    if options.tty and options.stdin and terminal_of(STDIN) is None:
        say("crib: standard input is not a terminal, so the command gets none")
        return False
    return options.tty


async def _bounded(connection: Connection, container_id: str, options: ExecOptions) -> int:
    """Through ExecSync, as only that has a time-out; the output comes when the command has ended."""
    request = ExecSyncRequest(container_id=container_id, cmd=options.words, timeout=options.timeout)
    limit = options.timeout + MARGIN
    reply = await connection.call(connection.runtime.ExecSync, request, timeout=limit)
    sys.stdout.buffer.write(reply.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(reply.stderr)
    sys.stderr.buffer.flush()
    return reply.exit_code
