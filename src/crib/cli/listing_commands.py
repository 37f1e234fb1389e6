"""`crib pods` and `crib ps`, and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.listing_options import PodsOptions, PsOptions
from crib.cli.session import CliSession


def add_listing_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, PodsOptions, panel)(pods)
    command(app, PsOptions, panel)(ps)


def pods(session: CliSession, options: PodsOptions) -> None:
    """List pods, the newest first.

    RUNNING counts containers that run; init containers that have finished are not counted. RESTARTS is how
    often containers of the pod were made again.
    """
    from crib.cli import listing

    session.run(listing.pods(session, options))


def ps(session: CliSession, options: PsOptions) -> None:
    """List containers that run, the newest first; with -a or --state others too.

    RESTARTS is how often the container was made again in its pod.

    crib ps -a --state exited -l app=web
    """
    from crib.cli import listing

    session.run(listing.containers(session, options))
