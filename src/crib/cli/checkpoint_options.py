"""The options of `crib checkpoint` and `crib restore`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True)
class CheckpointOptions:
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="CONTAINER",
            help="A pod, NAMESPACE/POD/CONTAINER or the beginning of an id.",
        ),
    ]
    container: Annotated[
        str, typer.Option("--container", "-c", metavar="NAME", help="The container, of a pod with several.")
    ] = ""
    export: Annotated[
        str,
        typer.Option(
            "--export",
            "-e",
            "-o",
            metavar="FILE",
            help="The archive to write on the node; POD-CONTAINER.tar in this directory if not given.",
        ),
    ] = ""
    timeout: Annotated[
        int,
        typer.Option("--timeout", metavar="SECONDS", min=0, help="For all of it; 0: the daemon's limit."),
    ] = 0


@dataclass(frozen=True)
class RestoreOptions:
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="FILE", help="An archive on the node, or the name of a checkpoint image."),
    ]
    pod: Annotated[
        str, typer.Option("--pod", metavar="POD", help="Into a pod that is there, instead of a new one.")
    ] = ""
    name: Annotated[
        str,
        typer.Option("--name", "-n", metavar="NAME", help="Of the new pod; else the container's."),
    ] = ""
    handler: Annotated[
        str, typer.Option("--runtime", "-r", metavar="HANDLER", help="The new pod's handler.")
    ] = ""
    volume: Annotated[
        list[str] | None,
        typer.Option(
            "--volume",
            "-v",
            metavar="HOST:PATH[:ro]",
            help="What the container had mounted at PATH. Repeat it for each mount.",
        ),
    ] = None
