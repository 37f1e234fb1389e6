"""The commands of `crib volume` and their help."""

from __future__ import annotations

import typer

from crib.cli import volume_options as args
from crib.cli.command import command, group
from crib.cli.session import CliSession


def add_volume_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    volume = group("Make, list, copy, measure and check the volumes that claims of manifests use.")
    app.add_typer(volume, name="volume", rich_help_panel=panel)
    command(volume, args.VolumeListOptions, panel)(ls)
    command(volume, args.VolumeCreateOptions, panel)(create)
    command(volume, args.VolumeInspectOptions, panel)(inspect)
    command(volume, args.VolumeRemoveOptions, panel)(rm)
    command(volume, args.VolumePruneOptions, panel)(prune)
    command(volume, args.VolumeExportOptions, panel)(export)
    command(volume, args.VolumeImportOptions, panel, name="import")(import_files)
    command(volume, args.VolumeStatsOptions, panel)(stats)
    command(volume, args.VolumeResizeOptions, panel)(resize)
    command(volume, args.VolumeCheckOptions, panel)(check)
    command(volume, args.VolumeDriversOptions, panel)(drivers)
    snapshot = group(
        "Keep volumes as they are at a moment. crib volume create --snapshot makes a volume of one."
    )
    volume.add_typer(snapshot, name="snapshot", rich_help_panel=panel)
    command(snapshot, args.SnapshotCreateOptions, panel, name="create")(snapshot_create)
    command(snapshot, args.SnapshotListOptions, panel, name="ls")(snapshot_ls)
    command(snapshot, args.SnapshotRemoveOptions, panel, name="rm")(snapshot_rm)


def ls(session: CliSession, options: args.VolumeListOptions) -> None:
    """List volumes, and how many pods use each."""
    from crib.cli import volume as work

    session.run(work.ls(session, options))


def create(session: CliSession, options: args.VolumeCreateOptions) -> None:
    """Make volumes before a pod asks for them.

    A volume that is there and is the same is left as it is. With --from it must not be there.

    crib volume create shop/data --class fast --size 10Gi
    crib volume create shop/data-copy --from shop/data
    """
    from crib.cli import volume as work

    session.run(work.create(session, options))


def inspect(session: CliSession, options: args.VolumeInspectOptions) -> None:
    """Show all about volumes: what they are, which pods use them and where, and their snapshots."""
    from crib.cli import volume as work

    session.run(work.inspect(session, options))


def rm(session: CliSession, options: args.VolumeRemoveOptions) -> None:
    """Remove volumes with what they hold. Refuses one that a pod uses, running or not, and says which pod."""
    from crib.cli import volume as work

    session.run(work.remove(session, options))


def prune(session: CliSession, options: args.VolumePruneOptions) -> None:
    """Take volumes from pods whose files are gone, and remove the volumes that such pods had of their own.

    With --all also every volume that no pod uses. Asks before it removes anything if it runs on a terminal.
    """
    from crib.cli import volume_upkeep as work

    session.run(work.prune(session, options))


def export(session: CliSession, options: args.VolumeExportOptions) -> None:
    """Write the files of a volume to a tar archive on the node. Stop its pods before: they may be writing.

    crib volume export shop/data /srv/data.tar
    """
    from crib.cli import volume_upkeep as work

    session.run(work.export(session, options))


def import_files(session: CliSession, options: args.VolumeImportOptions) -> None:
    """Make a volume, and fill it from a tar archive or a directory of the node.

    crib volume import shop/data /srv/data.tar --class fast
    """
    from crib.cli import volume_upkeep as work

    session.run(work.import_files(session, options))


def stats(session: CliSession, options: args.VolumeStatsOptions) -> None:
    """Show how full volumes are. A dash stands for what a volume's kind does not tell."""
    from crib.cli import volume_upkeep as work

    session.run(work.stats(session, options))


def resize(session: CliSession, options: args.VolumeResizeOptions) -> None:
    """Make a volume larger, also while pods use it."""
    from crib.cli import volume_upkeep as work

    session.run(work.resize(session, options))


def check(session: CliSession, options: args.VolumeCheckOptions) -> None:
    """Compare volumes with their records; one line for each thing that is wrong or worth reporting.

    Without names also looks for what is left over. Exits with 1 if something is wrong (any more).
    """
    from crib.cli import volume_upkeep as work

    raise typer.Exit(session.run(work.check(session, options)))


def drivers(session: CliSession, options: args.VolumeDriversOptions) -> None:
    """List the storage drivers (CSI) of the configuration: each is asked now whether it is ready."""
    from crib.cli import volume_drivers as work

    session.run(work.ls(session, options))


def snapshot_create(session: CliSession, options: args.SnapshotCreateOptions) -> None:
    """Keep a volume as it is now.

    crib volume snapshot create shop/data before-upgrade
    """
    from crib.cli import volume_snapshots as work

    session.run(work.create(session, options))


def snapshot_ls(session: CliSession, options: args.SnapshotListOptions) -> None:
    """List snapshots, and the volumes that they are of."""
    from crib.cli import volume_snapshots as work

    session.run(work.ls(session, options))


def snapshot_rm(session: CliSession, options: args.SnapshotRemoveOptions) -> None:
    """Remove snapshots."""
    from crib.cli import volume_snapshots as work

    session.run(work.remove(session, options))
