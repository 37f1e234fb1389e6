"""`crib nri`: node plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli.forms import Format
from crib.cli.output import age, as_dict, document, table
from crib.cli.session import say
from crib.client.plugins import plugins as listed

if TYPE_CHECKING:
    from crib.cli.nri_options import NriPluginsOptions
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import NodePlugin

COLUMNS = (
    "PLUGIN",
    "STATE",
    "FOR",
    "PID",
    "FROM",
    "CALLS",
    "FAILED",
    "AVERAGE",
    "PROBLEM",
)


async def plugins(session: CliSession, options: NriPluginsOptions) -> None:
    """A row for each."""
    async with session.connect() as connection:
        found = await listed(connection)
    if options.output not in (Format.TABLE, Format.WIDE):
        document([as_dict(one) for one in found.plugins], options.output)
        return
    table(COLUMNS, [_row(one) for one in found.plugins], options.output)
    if not found.enabled:
        say("crib: there are no plugins: nri.enable is false in the configuration")


def _row(one: NodePlugin) -> tuple[str, ...]:
    return (
        one.name or "-",
        one.state,
        age(one.since),
        str(one.pid or "-"),
        "plugin_dir" if one.installed else "socket",
        str(one.calls),
        str(one.failures),
        average(one),
        one.problem or "-",
    )


def average(one: NodePlugin) -> str:
    """Of a call, in milliseconds."""
    return f"{one.duration / one.calls / 1e6:.2f} ms" if one.calls else "-"
