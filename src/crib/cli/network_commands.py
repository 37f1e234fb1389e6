"""The commands of `crib network` and their help."""

from __future__ import annotations

import typer

from crib.cli import options as args
from crib.cli.command import command, group
from crib.cli.session import CliSession

_PANEL = "The node"

network = group("Show, check and repair pods' networks, and release what belongs to no pod.")


@command(network, args.NetworkListOptions, _PANEL, name="list")
def network_list(session: CliSession, options: args.NetworkListOptions) -> None:
    """List the networks of this node, those that pods are attached to first."""
    from crib.cli import network as work

    session.run(work.list_networks(session, options))


@command(network, args.NetworkInspectOptions, _PANEL, name="inspect")
def network_inspect(session: CliSession, options: args.NetworkInspectOptions) -> None:
    """Draw a pod's network as the kernel has it now.

    From the pod through each interface to the host, the way out, and the host ports that lead in. A cross on
    a line marks where it is broken. -o json and yaml give the values.
    """
    from crib.cli import network as work

    session.run(work.inspect(session, options))


@command(network, args.NetworkCheckOptions, _PANEL, name="check")
def network_check(session: CliSession, options: args.NetworkCheckOptions) -> None:
    """Compare each pod's network with how it was made; one line per pod.

    Without names it checks every ready pod. Exits with 1 if a problem remains. --repair makes a damaged
    network again, with the same addresses if they are still free. Containers keep running; their connections
    may break.
    """
    from crib.cli import network as work

    raise typer.Exit(session.run(work.check(session, options)))


@command(network, args.NetworkGcOptions, _PANEL, name="gc")
def network_gc(session: CliSession, options: args.NetworkGcOptions) -> None:
    """Release addresses, ports and interfaces of pods that no longer exist.

    Without --all it releases only what is certainly this runtime's, or left from before the boot.
    """
    from crib.cli import network as work

    session.run(work.collect(session, options))


@command(network, args.NetworkRemoveOptions, _PANEL, name="remove")
def network_remove(session: CliSession, options: args.NetworkRemoveOptions) -> None:
    """Remove the built-in bridge and its rules. Refused while pods are attached.

    The runtime makes them again for the next pod, and when it starts.
    """
    from crib.cli import network as work

    session.run(work.remove(session))
