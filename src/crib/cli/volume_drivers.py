"""`crib volume drivers`: storage drivers, and what they were asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli.output import Listing, as_dict
from crib.cli.tables import TableColumn
from crib.client import volumes

if TYPE_CHECKING:
    from crib.cli import volume_options as args
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import VolumeDriver

_COLUMNS = (
    "DRIVER",
    "VERSION",
    "STATE",
    "CALLS",
    "FAILURES",
    "PER CALL",
    TableColumn("NODE", wide=True),
    TableColumn("SOCKET", wide=True),
    TableColumn("CAPABILITIES", wide=True),
)


async def ls(session: CliSession, options: args.VolumeDriversOptions) -> None:
    """Every driver by name."""
    async with session.connect() as connection:
        found = await volumes.drivers(connection)
    names = [one.name for one in found]
    Listing(
        _COLUMNS,
        [_row(one) for one in found],
        names,
        names,
        [as_dict(one) for one in found],
    ).show(options.output, quiet=options.quiet)


def _row(one: VolumeDriver) -> tuple[str, ...]:
    return (
        one.name,
        one.version or "-",
        "Ready" if one.ready else f"Not ready: {one.problem}",
        str(one.calls),
        str(one.failures),
        f"{one.duration / one.calls / 1e6:.1f} ms" if one.calls else "-",
        one.node_id or "-",
        one.socket,
        ", ".join(one.capabilities) or "-",
    )
