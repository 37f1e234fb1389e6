"""The arguments of `crib down` and `crib kept`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from crib.cli.forms import Format, Output


@dataclass(frozen=True)
class DownOptions:
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="MANIFEST|NAME",
            help="Files with Kubernetes manifests (- is standard input), or pods and Jobs.",
        ),
    ]
    extra: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="FILE", help="As with crib run; may be repeated."),
    ] = None
    time: Annotated[
        int | None,
        typer.Option(
            "--time",
            "-t",
            min=0,
            metavar="SECONDS",
            help="Seconds before SIGKILL (default: the pod's grace period).",
        ),
    ] = None


@dataclass(frozen=True)
class KeptOptions:
    output: Output = Format.TABLE
