"""Commands under the names that crictl has for them, and their help.

What has the same name in both is not here; docs/commands.md has the whole table.
"""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.crictl_options import (
    CreateOptions,
    DocumentOptions,
    InspectiOptions,
    InspectpOptions,
    RunpOptions,
    UpdateRuntimeConfigOptions,
    VersionOptions,
)
from crib.cli.lifecycle_options import RmOptions, StopOptions
from crib.cli.options import ForwardOptions
from crib.cli.panels import RUNTIME
from crib.cli.session import CliSession
from crib.cli.usage_options import StatsOptions


def add_crictl_commands(app: typer.Typer) -> None:
    """Register them under a heading of their own."""
    command(app, RunpOptions, RUNTIME)(runp)
    command(app, CreateOptions, RUNTIME)(create)
    command(app, StopOptions, RUNTIME)(stopp)
    command(app, RmOptions, RUNTIME)(rmp)
    command(app, InspectpOptions, RUNTIME)(inspectp)
    command(app, InspectiOptions, RUNTIME)(inspecti)
    command(app, ForwardOptions, RUNTIME, name="port-forward")(port_forward)
    command(app, StatsOptions, RUNTIME)(statsp)
    command(app, DocumentOptions, RUNTIME)(metricsp)
    command(app, DocumentOptions, RUNTIME)(metricdescs)
    command(app, DocumentOptions, RUNTIME)(imagefsinfo)
    command(app, VersionOptions, RUNTIME)(version)
    command(app, DocumentOptions, RUNTIME, name="runtime-config")(runtime_config)
    command(app, UpdateRuntimeConfigOptions, RUNTIME, name="update-runtime-config")(update_runtime_config)


def runp(session: CliSession, options: RunpOptions) -> None:
    """Make a pod without containers from a configuration of the CRI, and print its id.

    Without a namespace it is in default; without a uid it gets one. crib run takes manifests of Kubernetes.
    """
    from crib.cli import crictl

    session.run(crictl.runp(session, options))


def create(session: CliSession, options: CreateOptions) -> None:
    """Create a container in a pod from configurations of the CRI, and print its id. crib start starts it."""
    from crib.cli import crictl

    session.run(crictl.create(session, options))


def stopp(session: CliSession, options: StopOptions) -> None:
    """Stop pods. The same as crib stop."""
    from crib.cli import lifecycle

    session.run(lifecycle.stop(session, options))


def rmp(session: CliSession, options: RmOptions) -> None:
    """Remove pods. The same as crib rm."""
    from crib.cli import lifecycle

    session.run(lifecycle.remove(session, options))


def inspectp(session: CliSession, options: InspectpOptions) -> None:
    """Show everything about pods."""
    from crib.cli import crictl

    session.run(crictl.inspectp(session, options))


def inspecti(session: CliSession, options: InspectiOptions) -> None:
    """Show everything about images."""
    from crib.cli import crictl

    session.run(crictl.inspecti(session, options))


def port_forward(session: CliSession, options: ForwardOptions) -> None:
    """Forward local ports to a pod until Ctrl-C. The same as crib forward."""
    from crib.cli import forward

    session.run(forward.forward(session, options))


def statsp(session: CliSession, options: StatsOptions) -> None:
    """Show the figures of pods. The same as crib stats."""
    from crib.cli.usage import stats

    session.run(stats.stats(session, options))


def metricsp(session: CliSession, options: DocumentOptions) -> None:
    """Show the metrics of all pods and containers, as a kubelet gets them."""
    from crib.cli import crictl

    session.run(crictl.metricsp(session, options))


def metricdescs(session: CliSession, options: DocumentOptions) -> None:
    """Show the names, labels and meanings of the metrics of crib metricsp."""
    from crib.cli import crictl

    session.run(crictl.metricdescs(session, options))


def imagefsinfo(session: CliSession, options: DocumentOptions) -> None:
    """Show how much of the disk images and containers take, as a kubelet gets it. See also crib df."""
    from crib.cli import crictl

    session.run(crictl.imagefsinfo(session, options))


def version(session: CliSession, options: VersionOptions) -> None:
    """Show the name and the version of the runtime. crib --version is this program's own."""
    from crib.cli import crictl

    session.run(crictl.version(session, options))


def runtime_config(session: CliSession, options: DocumentOptions) -> None:
    """Show what the runtime tells a kubelet to do as it does: its cgroup driver."""
    from crib.cli import crictl

    session.run(crictl.runtime_config(session, options))


def update_runtime_config(session: CliSession, options: UpdateRuntimeConfigOptions) -> None:
    """Give the runtime the node's range of pod addresses, as a kubelet does it."""
    from crib.cli import crictl

    session.run(crictl.update_runtime_config(session, options))
