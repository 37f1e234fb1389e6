"""The commands `crib check` and `crib wipe`: their arguments and their help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.options import Format, Output
from crib.cli.session import Session

_Offline = Annotated[
    bool,
    typer.Option("--offline", help="Work without the daemon, which must not be running."),
]
_Config = Annotated[
    str,
    typer.Option("--config", metavar="FILE", help="With --offline: the configuration file of the daemon."),
]


@dataclass(frozen=True)
class NodeCheckOptions:
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")] = False
    quick: Annotated[
        bool, typer.Option("--quick", help="Only check that layers exist, without reading them.")
    ] = False
    offline: _Offline = False
    config: _Config = ""
    output: Output = Format.TABLE


class WipeKind(StrEnum):
    """What a wipe is of."""

    PODS = "pods"
    CONTAINERS = "containers"
    NETWORK = "network"
    IMAGES = "images"
    LAYERS = "layers"
    ALL = "all"


@dataclass(frozen=True)
class WipeOptions:
    kinds: Annotated[list[WipeKind], typer.Argument(help="What to remove; pods include their containers.")]
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be removed.")] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it.")] = False
    force: Annotated[bool, typer.Option("--force", help="Kill running containers.")] = False
    offline: _Offline = False
    config: _Config = ""
    output: Output = Format.TABLE


def check(session: Session, options: NodeCheckOptions) -> None:
    """Check the whole node; one line for each thing that is wrong or worth reporting.

    Compares records with what runs, and what is on the host with the records; checks databases, layers,
    networks, logs and disk space. --repair repairs as a restart, a stop or a pull would; containers keep
    running. Exits with 0 if nothing is wrong (any more), 1 if something is, 2 if the check was not possible.
    """
    from crib.cli import upkeep as work

    raise typer.Exit(session.run(work.check(session, options)))


def wipe(session: Session, options: WipeOptions) -> None:
    """Remove all pods, containers or images, layers that no image needs, the bridge, or all of that.

    Removes nothing without --yes, and kills no running container without --force or --offline. Logs, volumes
    and networks of CNI stay. --offline also removes what belongs to no record. It works on a damaged node
    too: with missing programs and directories, or unreadable records.
    """
    from crib.cli import upkeep as work

    raise typer.Exit(session.run(work.wipe(session, options)))
