"""The commands that show what pods use, and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.session import CliSession
from crib.cli.usage_options import DfOptions, StatsOptions, TopOptions


def add_usage_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, TopOptions, panel)(top)
    command(app, StatsOptions, panel)(stats)
    command(app, DfOptions, panel)(df)


def top(session: CliSession, options: TopOptions) -> None:
    """Show what pods and containers use: live on a terminal, as one table elsewhere.

    CPU is in thousandths of a core, memory is the working set. RECV/s and SENT/s are of the pod's network,
    READ/s and WRIT/s of block devices. P.CPU, P.MEM and P.IO are the percent of the last 10 s in which a task
    waited for the CPU, for memory or for a disk. A dash stands for what the runtime does not tell. Press ?
    for the keys.
    """
    from crib.cli.usage import top as work

    session.run(work.top(session, options))


def stats(session: CliSession, options: StatsOptions) -> None:
    """Show the figures of all pods and containers, or every figure of one.

    Totals since the start, not rates. --watch shows them again and again; with --json each time is one line.
    """
    from crib.cli.usage import stats as work

    session.run(work.stats(session, options))


def df(session: CliSession, options: DfOptions) -> None:
    """Show what takes how much of the disk: layers, what containers have written, logs and records.

    RECLAIMABLE is what it would give to remove the images that no container uses, and the containers that
    have ended. Pinned images are not counted. OWN are the layers that an image shares with no other.
    """
    from crib.cli.usage import df as work

    session.run(work.df(session, options))
