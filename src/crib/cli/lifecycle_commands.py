"""The commands that start, stop, change and remove pods and containers, and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.lifecycle_options import (
    KillOptions,
    RestartOptions,
    RmOptions,
    StartOptions,
    StopOptions,
    UpdateOptions,
    WaitOptions,
)
from crib.cli.session import CliSession


def add_lifecycle_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    command(app, StartOptions, panel)(start)
    command(app, StopOptions, panel)(stop)
    command(app, RestartOptions, panel)(restart)
    command(app, KillOptions, panel)(kill)
    command(app, UpdateOptions, panel)(update)
    command(app, WaitOptions, panel)(wait)
    command(app, RmOptions, panel)(rm)


def start(session: CliSession, options: StartOptions) -> None:
    """Start pods or containers that were created, have exited or were stopped.

    A container that has exited gets a new attempt with the configuration that it has; crib logs --previous
    shows the log of the attempt before. A stopped pod gets a new sandbox, so perhaps another address; its
    volumes stay. A kubelet starts its own pods.
    """
    from crib.cli import lifecycle

    session.run(lifecycle.start(session, options))


def stop(session: CliSession, options: StopOptions) -> None:
    """Stop pods or containers: first the stop signal and, after the grace period, SIGKILL.

    Several are stopped at the same time. Logs and volumes stay until crib rm; crib start starts them again.
    """
    from crib.cli import lifecycle

    session.run(lifecycle.stop(session, options))


def restart(session: CliSession, options: RestartOptions) -> None:
    """Stop containers, and start a new attempt of each with the same configuration.

    Of a pod all containers are restarted, but not its finished init containers. A pod whose sandbox is
    stopped is started as by crib start.

    crib restart web -c server
    """
    from crib.cli import lifecycle

    session.run(lifecycle.restart(session, options))


def kill(session: CliSession, options: KillOptions) -> None:
    """Kill containers, or all containers of a pod, with SIGKILL. The pod itself stays.

    The CRI cannot carry other signals; crib exec POD -- kill -HUP 1 sends one from inside.
    """
    from crib.cli import lifecycle

    session.run(lifecycle.kill(session, options))


def update(session: CliSession, options: UpdateOptions) -> None:
    """Change the limits of running containers.

    What is not named stays as it is.

    crib update web -c server --cpus 500m --memory 256Mi --pids-limit 100
    """
    from crib.cli import limits

    session.run(limits.update(session, options))


def wait(session: CliSession, options: WaitOptions) -> None:
    """Wait until containers have exited, and print their exit codes; or until something else holds.

    Of a pod all containers are waited for. Exits with 1 if the time is up before.

    crib wait job --timeout 10m
    """
    from crib.cli import waiting

    session.run(waiting.wait(session, options))


def rm(session: CliSession, options: RmOptions) -> None:
    """Remove pods with their containers, logs and emptyDir volumes, or single containers.

    What still runs is only removed with --force.
    """
    from crib.cli import lifecycle

    session.run(lifecycle.remove(session, options))
