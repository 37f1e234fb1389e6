"""The commands of `crib network` and their help."""

from __future__ import annotations

import typer

from crib.cli import options as args
from crib.cli.command import command
from crib.cli.session import CliSession

_PANEL = "The node"

network = typer.Typer(help="See pods' networks, check and repair them, release what is held for nobody.")


@command(network, args.NetworkListOptions, _PANEL, name="list")
def network_list(session: CliSession, options: args.NetworkListOptions) -> None:
    """List the networks of this node, those that pods are attached to first."""
    from crib.cli import network as work

    session.run(work.list_networks(session, options))


@command(network, args.NetworkInspectOptions, _PANEL, name="inspect")
def network_inspect(session: CliSession, options: args.NetworkInspectOptions) -> None:
    """Draw a pod's network as the kernel has it now.

    From the pod through each interface to the host, the way out, and the ports of the host that lead in. A
    cross on a line is where it is broken. -o json and yaml give the values.
    """
    from crib.cli import network as work

    session.run(work.inspect(session, options))


@command(network, args.NetworkCheckOptions, _PANEL, name="check")
def network_check(session: CliSession, options: args.NetworkCheckOptions) -> None:
    """Compare pods' networks with what they were made as, a line for each pod.

    Without names every ready pod is looked at. Ends with 1 when a problem remains. --repair makes a damaged
    network anew, with the same addresses where they can be had, while containers go on running; their
    connections may break.
    """
    from crib.cli import network as work

    raise typer.Exit(session.run(work.check(session, options)))


@command(network, args.NetworkGcOptions, _PANEL, name="gc")
def network_gc(session: CliSession, options: args.NetworkGcOptions) -> None:
    """Release addresses, ports and interfaces that are held for pods that are not there any more.

    Only what is certainly this runtime's, or left from before the boot, unless --all is given.
    """
    from crib.cli import network as work

    session.run(work.collect(session, options))


@command(network, args.NetworkRemoveOptions, _PANEL, name="remove")
def network_remove(session: CliSession, options: args.NetworkRemoveOptions) -> None:
    """Remove the built-in bridge and its rules; refused while pods are attached.

    It is made anew for the next pod, and when the runtime starts.
    """
    from crib.cli import network as work

    session.run(work.remove(session))
