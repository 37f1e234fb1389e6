"""The commands that write containers down and restore them, and their help."""

from __future__ import annotations

import typer

from crib.cli.checkpoint_options import CheckpointOptions, RestoreOptions
from crib.cli.command import command
from crib.cli.session import CliSession


def add_checkpoint_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, CheckpointOptions, panel)(checkpoint)
    command(app, RestoreOptions, panel)(restore)


def checkpoint(session: CliSession, options: CheckpointOptions) -> None:
    """Write running containers down, each to an archive that only root can read; they go on.

    An archive holds the memory of the processes, so secrets too. crib info -v says whether this node can make
    one, or what is missing.

    crib checkpoint web -c server -o server.tar
    """
    from crib.cli import checkpoints

    session.run(checkpoints.checkpoint(session, options))


def restore(session: CliSession, options: RestoreOptions) -> None:
    """Make a container from a checkpoint, in a pod of its own, and let it go on where it was.

    The node must allow it (checkpoints.restore), and have the container's image. Restore only what you trust:
    CRIU restores as root what a checkpoint says, with its users and rights.

    crib restore server.tar --volume /srv/data:/data
    """
    from crib.cli import checkpoints

    session.run(checkpoints.restore(session, options))
