"""The arguments of the commands that list and remove images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from crib.cli.forms import Format, Output

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only ids, one a line.")]
NoTrunc = Annotated[bool, typer.Option("--no-trunc", help="Ids in full.")]
Yes = Annotated[bool, typer.Option("--force", "-f", "--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")]


@dataclass(frozen=True)
class ImagesOptions:
    repository: Annotated[
        str | None,
        typer.Argument(metavar="[REPOSITORY[:TAG]]", help="Only images of this name."),
    ] = None
    output: Output = Format.TABLE
    quiet: Quiet = False
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            metavar="KEY=VALUE",
            help="dangling=true|false, reference=PATTERN (or /REGULAR EXPRESSION/), before=IMAGE, "
            "since=IMAGE or until=TIME; all of them must hold.",
        ),
    ] = None
    digests: Annotated[bool, typer.Option("--digests", help="Show digests.")] = False
    no_trunc: NoTrunc = False


@dataclass(frozen=True)
class RmiOptions:
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="Names, digests or the beginnings of ids."),
    ] = None
    force: Annotated[
        bool,
        typer.Option("--force", "-f", help="Remove images that containers use, too; those keep running."),
    ] = False
    every: Annotated[
        bool, typer.Option("--all", "-a", help="Every image that is not pinned and not used.")
    ] = False
    prune: Annotated[
        bool, typer.Option("--prune", "-q", help="The same as --all, under the name that crictl has for it.")
    ] = False


@dataclass(frozen=True)
class ImagePruneOptions:
    every: Annotated[
        bool, typer.Option("--all", "-a", help="Every unused image. Default: only those without a name.")
    ] = False
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="until=TIME: only what is older, for example until=24h. May be repeated.",
        ),
    ] = None
    dry_run: DryRun = False
    yes: Yes = False


@dataclass(frozen=True)
class PruneOptions:
    every: Annotated[
        bool,
        typer.Option("--all", "-a", help="Every unused image too. Default: only those without a name."),
    ] = False
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="until=TIME: only what is older, for example until=24h; label=KEY[=VALUE] or "
            "label!=KEY[=VALUE]: only pods with it, or without. May be repeated.",
        ),
    ] = None
    dry_run: DryRun = False
    yes: Yes = False
