"""The commands that compare manifests with what runs, and make manifests of it."""

from __future__ import annotations

import typer

from crib.cli import workload_options as args
from crib.cli.command import command
from crib.cli.session import CliSession


def add_workload_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, args.DiffOptions, panel)(diff)
    command(app, args.GenerateOptions, panel)(generate)


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
