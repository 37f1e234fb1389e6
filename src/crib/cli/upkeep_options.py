"""The arguments of `crib check` and `crib wipe`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.options import Format, Output

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
