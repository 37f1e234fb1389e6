"""`crib conform` and its help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.conform_options import ConformOptions
from crib.cli.session import CliSession


def add_conform_command(app: typer.Typer, panel: str) -> None:
    """Register it, to be listed under this heading."""
    command(app, ConformOptions, panel)(conform)


def conform(session: CliSession, options: ConformOptions) -> None:
    """Check a CRI runtime against the interface: by RPC and by field, with a report.

    Makes pods and containers as a kubelet does and looks at them from inside, from outside and through the
    interface. Must-cases are what a kubelet relies on. Optional features are held to what Status says of
    them. Everything is labelled and removed, even after Ctrl-C. Exits with 1 if a must-case fails.

    crib conform unix:///run/containerd/containerd.sock --html report.html
    """
    from crib.cli import conform as work

    raise typer.Exit(work.conform(session, options))
