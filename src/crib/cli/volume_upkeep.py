"""`crib volume`: prune, copy to and from archives, measure, make larger, check."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from crib.cli.forms import Format
from crib.cli.output import Listing, as_dict, document, size, table, tell
from crib.cli.session import CommandError, say
from crib.cli.tables import TableColumn
from crib.cli.upkeep import finding_line, summary_line
from crib.cli.volume import bytes_of, label, name_of, spec_of, warn
from crib.client import node, volumes

if TYPE_CHECKING:
    from crib.cli import volume_options as args
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import Finding, PrunedVolume, VolumeDriver, VolumeUsage


async def prune(session: CliSession, options: args.VolumePruneOptions) -> None:
    """Ask on a terminal, then remove; whoever begins to use one meanwhile keeps it."""
    async with session.connect() as connection:
        asks = not options.yes and not options.dry_run and sys.stdin.isatty()
        if options.dry_run or asks:
            doomed = [one async for one in volumes.prune(connection, everything=options.every, dry_run=True)]
            if options.dry_run or not doomed:
                _show_pruned(doomed, options, is_done=False)
                return
            _show_pruned(doomed, options, is_done=False)
            print("Remove all of this? [y/N] ", end="", file=sys.stderr, flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                raise CommandError("nothing was removed")
        gone = [one async for one in volumes.prune(connection, everything=options.every)]
    _show_pruned(gone, options, is_done=True)
    if failed := sum(bool(one.problem) for one in gone):
        raise CommandError(f"{failed} of {len(gone)} stay")


def _show_pruned(found: list[PrunedVolume], options: args.VolumePruneOptions, *, is_done: bool) -> None:
    if options.output is not Format.TABLE:
        document([as_dict(one) for one in found], options.output)
        return
    for one in found:
        verb = "remove" if one.removed else "detach"
        if one.problem:
            say(f"crib: volume {one.volume} stays: {one.problem} ({one.reason})")
        else:
            done = {"remove": "removed", "detach": "detached"}[verb]
            tell(f"{done if is_done else f'would {verb}'} {one.volume} ({one.reason})")
    if not found:
        tell("nothing to remove")


async def export(session: CliSession, options: args.VolumeExportOptions) -> None:
    """Says how large the archive is."""
    path = os.path.abspath(options.path)
    async with session.connect() as connection:
        written = await volumes.export(connection, options.volume, path)
    tell(f"exported {options.volume} to {path} ({size(written)})")


async def import_files(session: CliSession, options: args.VolumeImportOptions) -> None:
    """Says the new volume's name, and how much it holds."""
    namespace, name = name_of(options.volume)
    path = os.path.abspath(options.path)
    async with session.connect() as connection:
        made = await volumes.import_files(connection, name, spec_of(options), path, namespace=namespace)
    warn(label(made.volume), made.warnings)
    tell(f"imported {label(made.volume)} from {path} ({size(made.size_bytes)})")


_STATS_COLUMNS = ("VOLUME", "USED", "SIZE", "AVAILABLE", "USE", "INODES", "INODES FREE", "PROBLEM")


async def stats(session: CliSession, options: args.VolumeStatsOptions) -> None:
    """A row for each volume."""
    async with session.connect() as connection:
        names = options.volumes or [label(one) async for one in volumes.list_volumes(connection)]
        found = [(name, await volumes.usage(connection, name)) for name in names]
    if options.output is not Format.TABLE:
        # what is not told is absent, so that nobody takes it for 0
        document([{"volume": name, **_told(usage)} for name, usage in found], options.output)
        return
    table(_STATS_COLUMNS, [_usage_row(name, usage) for name, usage in found])


def _told(usage: VolumeUsage) -> dict[str, int | str]:
    return {field.json_name: value for field, value in usage.ListFields()}


def _usage_row(name: str, usage: VolumeUsage) -> tuple[str, ...]:
    def told(field: str) -> int | None:
        return getattr(usage, field) if usage.HasField(field) else None  # type: ignore[arg-type]  # a name of it

    used, total = told("used_bytes"), told("total_bytes")
    amounts = [used, total, told("available_bytes")]
    share = f"{100 * used // total} %" if used is not None and total else "-"
    counts = [told("inodes_used"), told("inodes_free")]
    return (
        name,
        *("-" if amount is None else size(amount) for amount in amounts),
        share,
        *("-" if count is None else str(count) for count in counts),
        usage.problem or "-",
    )


async def resize(session: CliSession, options: args.VolumeResizeOptions) -> None:
    """Says how large it is by then."""
    capacity = bytes_of(options.size, "QUANTITY")
    async with session.connect() as connection:
        found = await volumes.resize(connection, options.volume, capacity)
    tell(f"volume {label(found)} has {size(found.capacity)}")


async def check(session: CliSession, options: args.VolumeCheckOptions) -> int:
    """Print a line for each finding. Returns 1 if something is still wrong, else 0."""
    found: list[Finding] = []
    async with session.connect() as connection:
        async for finding in volumes.check(connection, options.volumes or (), repair=options.repair):
            found.append(finding)
            if options.output is Format.TABLE:
                print(finding_line(finding), flush=True)
    if options.output is not Format.TABLE:
        document([as_dict(finding) for finding in found], options.output)
    else:
        print(summary_line(found), flush=True)
    return 1 if any(map(node.is_left, found)) else 0


_DRIVER_COLUMNS = (
    "DRIVER",
    "READY",
    "VERSION",
    "CALLS",
    "FAILED",
    "PROBLEM",
    TableColumn("NODE ID", wide=True),
    TableColumn("SOCKET", wide=True),
    TableColumn("CAN", wide=True),
)


async def drivers(session: CliSession, options: args.VolumeDriversOptions) -> None:
    """A row for each driver of the configuration."""
    async with session.connect() as connection:
        found = await volumes.drivers(connection)
    names = [one.name for one in found]
    rows = [_driver_row(one) for one in found]
    listing = Listing(_DRIVER_COLUMNS, rows, names, names, [as_dict(one) for one in found])
    listing.show(options.output)


def _driver_row(one: VolumeDriver) -> tuple[str, ...]:
    return (
        one.name,
        "yes" if one.ready else "no",
        one.version or "-",
        str(one.calls),
        str(one.failures),
        one.problem or "-",
        one.node_id or "-",
        one.socket,
        ", ".join(one.capabilities) or "-",
    )
