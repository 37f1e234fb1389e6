"""The commands `crib check` and `crib wipe`: their arguments and their help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.options import Format, Output
from crib.cli.session import CliSession

_Offline = Annotated[
    bool,
    typer.Option("--offline", help="Without the daemon, which must not run: cribd's own program does it."),
]
_Config = Annotated[
    str, typer.Option("--config", metavar="FILE", help="With --offline: the daemon's configuration.")
]


@dataclass(frozen=True)
class NodeCheckOptions:
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False
    quick: Annotated[
        bool, typer.Option("--quick", help="Only see whether layers are there, without reading them.")
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
    kinds: Annotated[list[WipeKind], typer.Argument(help="What to remove; pods go with their containers.")]
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Remove nothing, tell only.")] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it.")] = False
    force: Annotated[bool, typer.Option("--force", help="End containers that run.")] = False
    offline: _Offline = False
    config: _Config = ""
    output: Output = Format.TABLE


def check(session: CliSession, options: NodeCheckOptions) -> None:
    """Check everything of this node, a line for each thing that is wrong or worth telling.

    Records against what runs, what lies about against the records, databases, layers, networks, logs, disk
    space. --repair mends as a restart, a stop or a pull would; containers go on running. Ends with 0 when
    nothing is wrong (any more), 1 when something is, 2 when it could not be looked at.
    """
    from crib.cli import upkeep as work

    raise typer.Exit(session.run(work.check(session, options)))


def wipe(session: CliSession, options: WipeOptions) -> None:
    """Remove all pods, containers or images, layers that no image needs, the bridge, or all of that.

    Nothing is removed without --yes, and no container that runs is ended without --force or --offline. Logs
    stay, as do volumes and networks of CNI. With --offline also what belongs to no record goes, on a node
    that is damaged too: missing programs and directories, unreadable records.
    """
    from crib.cli import upkeep as work

    raise typer.Exit(session.run(work.wipe(session, options)))
