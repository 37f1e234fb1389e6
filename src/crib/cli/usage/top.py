"""`crib top`: what pods and containers use, live on a terminal, as one table elsewhere."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from crib.cli.forms import Form, Format
from crib.cli.output import document, tell
from crib.cli.usage.columns import UsageTable
from crib.cli.usage.rows import Meter, Shown, arrange, as_document
from crib.cli.usage_options import Layout
from crib.client.usage import UsageClient
from crib.stubs.runtime.v1.api_pb2 import VersionRequest

if TYPE_CHECKING:
    from crib.cli.session import CliSession
    from crib.cli.usage_options import TopOptions
    from crib.client import Connection

BATCH_WIDTH = 250
"""Columns of a table that is read by a program: room for everything."""


async def top(session: CliSession, options: TopOptions) -> None:
    """Show usage until the person leaves, or once."""
    form = Format.JSON if options.json else options.output
    async with session.connect() as connection:
        if options.once or form is not Format.TABLE or not _can_draw():
            await _once(connection, options, form)
        else:
            await _live(connection, options)


def _can_draw() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _shown(options: TopOptions) -> Shown:
    return Shown(options.layout, options.sort, options.reverse, options.filter)


async def _once(connection: Connection, options: TopOptions, form: Form) -> None:
    """One table of what was used between two readings."""
    reader, meter, shown = UsageClient(connection), Meter(), _shown(options)
    first = await reader.read()
    meter.rows(first)
    await asyncio.sleep(options.interval)
    second = await reader.read()
    rows = meter.rows(second)
    if form is not Format.TABLE:
        kept = arrange(rows, replace(shown, layout=Layout.PODS))
        document(as_document(second.at, (second.at - first.at) / 1e9, kept), form)
        return
    arranged = arrange(rows, shown)
    width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else BATCH_WIDTH
    table = UsageTable.of(arranged, width, shown.sort, shown.layout)
    tell("".join(title for title, _ in table.head()))
    for row in arranged:
        tell(table.line(row))


async def _live(connection: Connection, options: TopOptions) -> None:
    from rich.console import Console

    from crib.cli.usage.keys import View
    from crib.cli.usage.screen import Picture, Screen

    for name in ("COLUMNS", "LINES"):  # rich would take these for the size, also after a change
        os.environ.pop(name, None)
    reader, meter = UsageClient(connection), Meter()
    version = await connection.call(connection.runtime.Version, VersionRequest())
    title = f"{version.runtime_name} {version.runtime_version}"
    picture = Picture(title, meter.rows(await reader.read()))
    await Screen(reader, picture, meter, View(_shown(options), options.interval)).run(Console())
