"""`crib exec` and `crib attach`: a process of a container, joined to this terminal or to pipes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from crib.cli.local_streams import STDIN, join
from crib.cli.session import CommandError, say
from crib.cli.terminal import DetachKeys, terminal_of
from crib.client import lookup, streams
from crib.stubs.runtime.v1.api_pb2 import ContainerStatusRequest, ExecSyncRequest

if TYPE_CHECKING:
    from crib.cli.options import AttachOptions, ExecOptions
    from crib.cli.session import CliSession
    from crib.client import Connection

MARGIN = 30.0
"""Seconds for the runtime to end a command whose time-out has passed."""


async def execute(session: CliSession, options: ExecOptions) -> int:
    """Run the command and return its exit code."""
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
    """As requested, unless the input is not a terminal: its end could not be passed on to a terminal."""
    if options.tty and options.stdin and terminal_of(STDIN) is None:
        say("crib: standard input is not a terminal, so the command gets none")
        return False
    return options.tty


async def _bounded(connection: Connection, container_id: str, options: ExecOptions) -> int:
    """Through ExecSync, because only that has a time-out. The output comes when the command has ended."""
    request = ExecSyncRequest(container_id=container_id, cmd=options.words, timeout=options.timeout)
    limit = options.timeout + MARGIN
    reply = await connection.call(connection.runtime.ExecSync, request, timeout=limit)
    sys.stdout.buffer.write(reply.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(reply.stderr)
    sys.stderr.buffer.flush()
    return reply.exit_code


_TERMINAL = (("record", "config", "tty"), ("runtimeSpec", "process", "terminal"))
"""Where the verbose status says whether a container has a terminal: of crib, of containerd and CRI-O."""


async def attach(session: CliSession, options: AttachOptions) -> int:
    """Stay attached until the container ends or the keys are typed; returns 0."""
    keys = DetachKeys(options.detach_keys)
    async with session.connect() as connection:
        found = await lookup.find_container(connection, options.target, options.container)
        tty = options.tty
        if tty is None:
            tty = await has_terminal(connection, found.container.id)
        wanted = streams.StreamOptions(
            tty, options.stdin, transport=options.transport.value, ca_file=options.ca_file
        )
        async with streams.attach(connection, found.container.id, wanted) as remote:
            code = await join(remote, wanted, keys)
    if code is None:
        say("detached")
    return code or 0


async def has_terminal(connection: Connection, container_id: str) -> bool:
    """Whether the container has a terminal, according to the runtime's verbose status."""
    request = ContainerStatusRequest(container_id=container_id, verbose=True)
    status = await connection.call(connection.runtime.ContainerStatus, request)
    try:
        info = json.loads(status.info.get("info", "{}"))
    except ValueError:
        return False
    return any(_at(info, path) is True for path in _TERMINAL)


def _at(value: object, path: tuple[str, ...]) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
