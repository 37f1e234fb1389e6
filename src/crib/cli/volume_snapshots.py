"""`crib volume snapshot`: volumes as they were at a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli.output import Listing, age, as_dict, short_id, size, tell
from crib.cli.session import CommandError
from crib.cli.tables import TableColumn
from crib.cli.volume import each
from crib.client import volumes
from crib.manifest.fields import is_subdomain

if TYPE_CHECKING:
    from crib.cli import volume_options as args
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.stubs.node.v1.node_pb2 import VolumeSnapshot

_COLUMNS = ("SNAPSHOT", "VOLUME", "KIND", "SIZE", "STATE", "AGE", TableColumn("ID", wide=True))


async def create(session: CliSession, options: args.SnapshotCreateOptions) -> None:
    """Says its name."""
    if not is_subdomain(options.name):
        raise CommandError(f"{options.name!r} must be at most 253 of a-z, 0-9, '-' and '.'", exit_code=2)
    async with session.connect() as connection:
        made = await volumes.snapshot(connection, options.volume, options.name)
    tell(f"{made.namespace}/{made.name}")


async def ls(session: CliSession, options: args.SnapshotListOptions) -> None:
    """Every snapshot by name."""
    async with session.connect() as connection:
        found = [one async for one in volumes.list_snapshots(connection, namespace=options.namespace)]
    names = [f"{one.namespace}/{one.name}" for one in found]
    Listing(
        _COLUMNS,
        [_row(one) for one in found],
        names,
        names,
        [as_dict(one) for one in found],
    ).show(options.output, quiet=options.quiet)


def _row(one: VolumeSnapshot) -> tuple[str, ...]:
    state = one.state.capitalize() if one.usable or one.state != "ready" else "Not usable yet"
    return (
        f"{one.namespace}/{one.name}",
        f"{one.namespace}/{one.volume_name}",
        f"{one.kind} ({one.driver})" if one.driver else one.kind,
        size(one.size) if one.size else "-",
        f"{state}: {one.problem}" if one.problem else state,
        age(one.created_at),
        short_id(one.id),
    )


async def remove(session: CliSession, options: args.SnapshotRemoveOptions) -> None:
    """Continues after a failure, and fails at the end."""

    async def act(connection: Connection, name: str) -> None:
        await volumes.remove_snapshot(connection, name)

    await each(session, options.snapshots, "snapshots", act)
