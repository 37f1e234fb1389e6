"""The commands that show what was: where the time of pods went, and what happened; and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.history_options import EventsOptions, TimelineOptions
from crib.cli.session import CliSession


def add_history_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, TimelineOptions, panel)(timeline)
    command(app, EventsOptions, panel)(events)


def timeline(session: CliSession, options: TimelineOptions) -> None:
    """Show how long each stage of a pod took: its start, its containers' restarts and ends, its own end.

    CPU is what the programs of a stage used themselves (CNI plugins, the OCI runtime); the rest of their time
    they waited. Timelines are kept across restarts of the daemon, and for a while after a pod was removed.

    crib timeline default/web
    crib timeline --slowest stages -n 5
    crib timeline --compare web-1 web-2
    """
    from crib.cli import timeline as work

    session.run(work.timeline(session, options))


def events(session: CliSession, options: EventsOptions) -> None:
    """Show what happened on this node: to containers, pods, images, networks and the daemon.

    Events are kept for an hour, and each has a number. --since NUMBER goes on after it, also after a restart
    of the daemon, and says so if events in between are no longer kept. Another runtime keeps none: there only
    -f shows something, and only containers and pods.
    """
    from crib.cli import events as work

    session.run(work.events(session, options))
