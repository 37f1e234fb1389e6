"""The commands about manifests and what runs of them: kept up, compared, made again; and their help."""

from __future__ import annotations

import typer

from crib.cli import workload_options as args
from crib.cli.command import command
from crib.cli.keeping_options import DownOptions, KeptOptions
from crib.cli.session import CliSession


def add_workload_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, DownOptions, panel)(down)
    command(app, KeptOptions, panel)(kept)
    command(app, args.DiffOptions, panel)(diff)
    command(app, args.GenerateOptions, panel)(generate)


def down(session: CliSession, options: DownOptions) -> None:
    """Stop and remove the pods of a manifest, or pods and Jobs by name, with all that crib run made for them.

    Runs preStop hooks and gives each pod its grace period. A pod that was kept up is kept up no longer. Pods
    of the manifest that are not there are passed over.

    crib down web.yaml
    """
    from crib.cli import keeping

    session.run(keeping.down(session, options))


def kept(session: CliSession, options: KeptOptions) -> None:
    """List the pods and Jobs that are kept up (crib run --restart), and how their containers are.

    STATE has what is left of the pause of a container that ends again and again, as in CrashLoopBackOff 40 s.
    """
    from crib.cli import keeping

    session.run(keeping.show(session, options))


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
