"""`crib network`: list, inspect, check and repair networks, and release leftovers."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from crib.cli.forms import Format
from crib.cli.network_picture import pen_for, picture
from crib.cli.output import as_dict, clean, document, short_id, table
from crib.cli.session import say
from crib.client import lookup
from crib.client import networks as client_networks

if TYPE_CHECKING:
    from crib.cli.options import (
        NetworkCheckOptions,
        NetworkGcOptions,
        NetworkInspectOptions,
        NetworkListOptions,
    )
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import NetworkCheck


async def list_networks(session: CliSession, options: NetworkListOptions) -> None:
    """The node's networks, those that pods are attached to first."""
    async with session.connect() as connection:
        found = await client_networks.list_networks(connection)
    if options.output is not Format.TABLE:
        document([as_dict(network) for network in found], options.output)
        return
    rows = [
        (
            network.name,
            network.kind,
            network.interface or "-",
            ", ".join(network.subnets) or "-",
            str(network.attached),
            network.problem or "-",
        )
        for network in found
    ]
    table(("NETWORK", "KIND", "INTERFACE", "SUBNETS", "PODS", "PROBLEM"), rows)


async def inspect(session: CliSession, options: NetworkInspectOptions) -> None:
    """One pod's network, as a picture or a document."""
    async with session.connect() as connection:
        pod = await lookup.find_pod(connection, options.pod)
        found = await client_networks.inspect(connection, pod.id)
        if options.output is not Format.TABLE:
            document(as_dict(found), options.output)
            return
        networks = await client_networks.list_networks(connection)
    columns = shutil.get_terminal_size((80, 24)).columns
    for line in picture(found, networks, columns, pen_for(sys.stdout.encoding)):
        print(line)


async def check(session: CliSession, options: NetworkCheckOptions) -> int:
    """Print a line for each pod. Returns 1 if a problem remains, else 0."""
    found: list[NetworkCheck] = []
    async with session.connect() as connection:
        names = options.pods or []
        everything = await lookup.pods(connection) if names else []
        wanted = [lookup.pick_pod(everything, name).id for name in names]
        async for item in client_networks.check(connection, wanted, repair=options.repair):
            found.append(item)
            if options.output is Format.TABLE:
                print(check_line(item), flush=True)
    if options.output is not Format.TABLE:
        document([as_dict(item) for item in found], options.output)
    elif not found:
        say("no ready pod has a network of its own")
    return 1 if any(item.problem and not item.repaired for item in found) else 0


def check_line(item: NetworkCheck) -> str:
    """The pod and the state of its network: ok, repaired, or damaged and why."""
    line = f"{short_id(item.pod_sandbox_id)}  {item.pod}  "
    if not item.problem:
        return clean(f"{line}ok")
    line += f"{'repaired' if item.repaired else 'damaged'}: {item.problem}"
    return clean(f"{line}; not repaired: {item.repair_error}" if item.repair_error else line)


async def collect(session: CliSession, options: NetworkGcOptions) -> None:
    """Print a line for each thing that was released."""
    async with session.connect() as connection:
        released = await client_networks.collect(connection, everything=options.everything)
    for what in released:
        print(f"released {clean(what)}")
    if not released:
        say("nothing to release")


async def remove(session: CliSession) -> None:
    """Remove the built-in bridge."""
    async with session.connect() as connection:
        await client_networks.remove(connection)
    print("removed the built-in bridge and its rules")
