"""The commands that compare manifests with what runs, make manifests of it, and look after named volumes."""

from __future__ import annotations

import typer

from crib.cli import workload_options as args
from crib.cli.command import command, group
from crib.cli.session import CliSession


def add_workload_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, args.DiffOptions, panel)(diff)
    command(app, args.GenerateOptions, panel)(generate)
    volume = group("List, make and remove the named volumes that claims of manifests use.")
    app.add_typer(volume, name="volume", rich_help_panel=panel)
    command(volume, args.VolumeListOptions, panel, name="ls")(volume_ls)
    command(volume, args.VolumeCreateOptions, panel, name="create")(volume_create)
    command(volume, args.VolumeInspectOptions, panel, name="inspect")(volume_inspect)
    command(volume, args.VolumeRemoveOptions, panel, name="rm")(volume_rm)
    command(volume, args.VolumePruneOptions, panel, name="prune")(volume_prune)


def diff(session: CliSession, options: args.DiffOptions) -> None:
    """Show what differs between manifests and what runs, by pod, container and field.

    Compares images, too: a tag that now means another image here is a difference. What Secrets hold is
    compared, but not shown. Exits with 0 if nothing differs and with 1 if something does.

    crib diff web.yaml || crib run --replace web.yaml
    """
    from crib.cli import diff as work

    raise typer.Exit(session.run(work.diff(session, options)))


def generate(session: CliSession, options: args.GenerateOptions) -> None:
    """Write a manifest of a pod that is here, which crib run takes again.

    Variables are written as they are, also those that came from Secrets. The runtime does not know probes,
    hooks and restart policies, so they are not in it.

    crib generate web > web.yaml
    """
    from crib.cli import generate as work

    session.run(work.generate(session, options))


def volume_ls(session: CliSession, options: args.VolumeListOptions) -> None:
    """List named volumes, and how many pods use each."""
    from crib.cli import volume as work

    work.ls(session, options)


def volume_create(session: CliSession, options: args.VolumeCreateOptions) -> None:
    """Make named volumes before a pod asks for them."""
    from crib.cli import volume as work

    work.create(session, options)


def volume_inspect(session: CliSession, options: args.VolumeInspectOptions) -> None:
    """Show where named volumes are and which pods use them, by uid."""
    from crib.cli import volume as work

    work.inspect(session, options)


def volume_rm(session: CliSession, options: args.VolumeRemoveOptions) -> None:
    """Remove named volumes with what they hold. Refuses one that a pod uses, running or not."""
    from crib.cli import volume as work

    work.remove(session, options)


def volume_prune(session: CliSession, options: args.VolumePruneOptions) -> None:
    """Remove all named volumes that no pod uses, with what they hold.

    Asks before it removes anything if it runs on a terminal.
    """
    from crib.cli import volume as work

    work.prune(session, options)
