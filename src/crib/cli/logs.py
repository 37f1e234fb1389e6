"""`crib logs`: the lines of a container's log file."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crib.cli.times import moment
from crib.client import ClientError, events, lookup
from crib.client import logs as client_logs
from crib.client import pods as client_pods
from crib.client.errors import NotFound
from crib.stubs.runtime.v1.api_pb2 import CONTAINER_EXITED

if TYPE_CHECKING:
    from crib.cli.options import LogsOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.wire.crilog import LogLine

RETRY = 1.0
"""Seconds between attempts to reach a runtime that does not answer."""


async def logs(session: CliSession, options: LogsOptions) -> None:
    """Write the lines; with --follow until the container has exited or was removed."""
    wanted = client_logs.WantedLines(
        options.tail, moment(options.since, "--since", time.time_ns()) if options.since else 0
    )
    async with session.connect() as connection:
        found = await lookup.find_container(connection, options.target, options.container)
        status = await client_pods.container_status(connection, found.container.id)
        if not options.follow or status.state == CONTAINER_EXITED:
            for line in client_logs.read(status.log_path, wanted):
                _write(line, timestamps=options.timestamps)
            return
        await _follow(connection, status.id, status.log_path, wanted, timestamps=options.timestamps)


async def _follow(
    connection: Connection, container_id: str, path: str, wanted: client_logs.WantedLines, *, timestamps: bool
) -> None:
    exited = asyncio.Event()

    async def watch() -> None:
        while not exited.is_set():
            try:
                await events.wait_exited(connection, container_id)
                exited.set()
            except NotFound:
                exited.set()  # removed
            except ClientError:
                await asyncio.sleep(RETRY)  # the runtime may restart, while containers keep writing

    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(watch())
        async for line in client_logs.follow(path, wanted, ended=exited.is_set):
            _write(line, timestamps=timestamps)
        watcher.cancel()


def _write(line: LogLine, *, timestamps: bool) -> None:
    out = sys.stderr.buffer if line.stream == "stderr" else sys.stdout.buffer
    prefix = ""
    if timestamps:
        seconds, rest = divmod(line.at, 10**9)
        prefix = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z "
    out.write(prefix.encode() + line.content + b"\n")
    out.flush()
