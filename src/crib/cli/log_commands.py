"""`crib logs` and its help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.log_options import LogsOptions
from crib.cli.session import CliSession


def add_log_commands(app: typer.Typer, panel: str) -> None:
    """Register it, to be listed under this heading."""
    command(app, LogsOptions, panel)(logs)


def logs(session: CliSession, options: LogsOptions) -> None:
    """Show the logs of containers. What they wrote to standard error goes to standard error.

    Lines of several containers come in the order of their times, or with -f as they are written.

    crib logs -f --tail 20 web
    crib logs -l app=web --all-containers --since 10m
    """
    from crib.cli import logs as work

    session.run(work.logs(session, options))
