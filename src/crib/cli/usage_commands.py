"""The commands that show what pods use and why containers have ended, and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.session import CliSession
from crib.cli.usage_options import DfOptions, StatsOptions, TopOptions, WhyOptions


def add_usage_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, TopOptions, panel)(top)
    command(app, StatsOptions, panel)(stats)
    command(app, DfOptions, panel)(df)
    command(app, WhyOptions, panel)(why)


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


def why(session: CliSession, options: WhyOptions) -> None:
    """Say what ended a container: its exit code, a signal, want of memory, or who asked for it.

    Of an end for want of memory it names the cgroup whose limit was hit, and the process that was killed.
    What was removed is known for a day, also after a restart of cribd. crib has no probes of its own: when a
    kubelet's probe fails, the kubelet asks for the stop.

    crib why web -c server
    """
    from crib.cli import why as work

    session.run(work.why(session, options))
