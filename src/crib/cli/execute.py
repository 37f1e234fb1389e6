"""`crib exec`, through ExecSync: the command runs to its end and its output comes then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crib.client import lookup
from crib.stubs.runtime.v1.api_pb2 import ExecSyncRequest

if TYPE_CHECKING:
    from crib.cli.options import ExecOptions
    from crib.cli.session import Session

MARGIN = 30.0
"""Seconds for the runtime to end a command whose time-out has passed."""


async def execute(session: Session, options: ExecOptions) -> int:
    """Run the command, write what it wrote, and give its exit code."""
    async with session.connect() as connection:
        found = await lookup.find_container(connection, options.target, options.container)
        request = ExecSyncRequest(container_id=found.container.id, cmd=options.words, timeout=options.timeout)
        limit = options.timeout + MARGIN if options.timeout else 0
        reply = await connection.call(connection.runtime.ExecSync, request, timeout=limit)
    sys.stdout.buffer.write(reply.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(reply.stderr)
    sys.stderr.buffer.flush()
    return reply.exit_code
