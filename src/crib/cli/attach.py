"""`crib attach`: a container's first process, joined to this terminal or to pipes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from crib.cli.local_streams import join
from crib.cli.session import say
from crib.cli.terminal import DetachKeys
from crib.client import lookup, streams
from crib.stubs.runtime.v1.api_pb2 import ContainerStatusRequest

if TYPE_CHECKING:
    from crib.cli.options import AttachOptions
    from crib.cli.session import CliSession
    from crib.client import Connection

_TERMINAL = (("record", "config", "tty"), ("runtimeSpec", "process", "terminal"))
"""Where crib, and containerd and CRI-O, tell of a container's terminal."""


async def attach(session: CliSession, options: AttachOptions) -> int:
    """Join the container until it ends or the keys are typed; then 0."""
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
    """Whether the container has a terminal, as far as the runtime's verbose status tells."""
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
