"""The arguments of the commands that are about manifests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from crib.cli.forms import DocumentOutput, Format, Output
from crib.cli.options import ExtraFiles

_Manifests = Annotated[
    list[str],
    typer.Argument(metavar="MANIFEST", help="Files with Kubernetes manifests; - means standard input."),
]


@dataclass(frozen=True)
class RunCommandOptions:
    manifests: _Manifests
    extra: ExtraFiles = None
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Stop and remove pods of the same names, once everything for the new ones is here.",
        ),
    ] = False
    keep: Annotated[bool, typer.Option("--keep", help="Keep a pod that failed to start, for inspection.")] = (
        False
    )
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Keep the pods up: restart and probe containers as the manifest says, also after a boot.",
        ),
    ] = False
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground",
            help="Stay, show logs, restart and probe as the manifest says. Ctrl-C stops the pods.",
        ),
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the manifest and show the CRI requests, but make nothing."),
    ] = False
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="With --dry-run: show what Secrets hold, too.")
    ] = False
    output: Output = Format.TABLE


@dataclass(frozen=True)
class DiffOptions:
    manifests: _Manifests
    extra: ExtraFiles = None
    output: Output = Format.TABLE


@dataclass(frozen=True)
class GenerateOptions:
    pod: Annotated[str, typer.Argument(metavar="POD", help="NAME, NAMESPACE/NAME or the beginning of an id.")]
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Write the Secrets that its volumes are made of, too.")
    ] = False
    output: DocumentOutput = Format.YAML
