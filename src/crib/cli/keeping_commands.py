"""The commands about pods that are kept up, and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.keeping_options import DownOptions, KeptOptions
from crib.cli.session import CliSession


def add_keeping_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, DownOptions, panel)(down)
    command(app, KeptOptions, panel)(kept)


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
