"""The options of commands that look after the node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.forms import Format, Output


@dataclass(frozen=True)
class WorkOptions:
    output: Output = Format.TABLE


@dataclass(frozen=True)
class AbandonOptions:
    id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a pod or a container, or the beginning of it.")
    ]
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The reason; it is shown with the object.")] = ""


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
    """What a wipe removes."""

    PODS = "pods"
    CONTAINERS = "containers"
    NETWORK = "network"
    VOLUMES = "volumes"
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
