"""The commands that look at pods: lists, what was, what they use, why they ended, logs; and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.history_options import EventsOptions, TimelineOptions
from crib.cli.listing_options import PodsOptions, PsOptions
from crib.cli.log_options import LogsOptions
from crib.cli.session import CliSession
from crib.cli.usage_options import DfOptions, StatsOptions, TopOptions, WhyOptions


def add_looking_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, PodsOptions, panel)(pods)
    command(app, PsOptions, panel)(ps)
    command(app, TimelineOptions, panel)(timeline)
    command(app, EventsOptions, panel)(events)
    command(app, TopOptions, panel)(top)
    command(app, StatsOptions, panel)(stats)
    command(app, DfOptions, panel)(df)
    command(app, WhyOptions, panel)(why)
    command(app, LogsOptions, panel)(logs)


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


def logs(session: CliSession, options: LogsOptions) -> None:
    """Show the logs of containers. What they wrote to standard error goes to standard error.

    Lines of several containers come in the order of their times, or with -f as they are written.

    crib logs -f --tail 20 web
    crib logs -l app=web --all-containers --since 10m
    """
    from crib.cli import logs as work

    session.run(work.logs(session, options))
