"""`crib work` and `crib abandon`: what is under way, and giving up on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli.options import Format
from crib.cli.output import as_dict, document, short_id, table, tell
from crib.client import work as client

if TYPE_CHECKING:
    from crib.cli.node_options import AbandonOptions, WorkOptions
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import Work

COLUMNS = ("WORK", "ID", "POD", "SINCE", "CALLERS", "REQUEST", "STAGE")


async def work(session: CliSession, options: WorkOptions) -> None:
    """List what is under way; NotOffered from runtimes without crib's Node service."""
    async with session.connect() as connection:
        found = await client.under_way(connection)
    if options.output is not Format.TABLE:
        document([as_dict(one) for one in found], options.output)
        return
    table(COLUMNS, [row(one) for one in found])


def row(one: Work) -> tuple[str, ...]:
    """One line of the table."""
    return (
        one.name,
        short_id(one.id) or "-",
        one.title or "-",
        f"{one.age_ns / 1e9:.1f}s",
        str(one.callers),
        one.request_id or "-",
        one.stage or "-",
    )


async def abandon(session: CliSession, options: AbandonOptions) -> None:
    """Give up on one object and say which verbs that ended."""
    async with session.connect() as connection:
        for line in await client.abandon(connection, options.id, options.reason):
            tell(f"abandoned {line}")
    tell(f"{options.id} is being removed in the background")
