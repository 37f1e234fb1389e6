"""The commands of `crib nri` and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command, group
from crib.cli.nri_options import NriPluginsOptions
from crib.cli.session import CliSession


def add_nri_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    nri = group("Show node plugins (NRI).")
    app.add_typer(nri, name="nri", rich_help_panel=panel)
    command(nri, NriPluginsOptions, panel)(plugins)


def plugins(session: CliSession, options: NriPluginsOptions) -> None:
    """List the node plugins: those that take part first, in the order in which they are asked.

    AVERAGE is the time of one call. -o wide adds the events that a plugin subscribes to.
    """
    from crib.cli import nri

    session.run(nri.plugins(session, options))
