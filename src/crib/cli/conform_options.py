"""The arguments of `crib conform`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from crib.cli.forms import Format, Output

MAX_PARALLEL = 32


@dataclass(frozen=True)
class ConformOptions:
    endpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="ENDPOINT", help="The runtime's socket. Default: that of --endpoint before the command."
        ),
    ] = None
    image: Annotated[
        str,
        typer.Option(metavar="IMAGE", help="A busybox, for the pods. It is pulled if it is missing."),
    ] = "registry.k8s.io/e2e-test-images/busybox:1.29-4"
    pull_image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE:TAG", help="An image to pull and to remove. Without it cases of pulls are skipped."
        ),
    ] = ""
    handler: Annotated[str, typer.Option(metavar="NAME", help="The RuntimeClass handler of the pods.")] = ""
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="PATTERN",
            help="Only cases with this in their id or their fields, or like this with * and ?. Repeatable.",
        ),
    ] = None
    parallel: Annotated[
        int, typer.Option("--parallel", "-p", min=1, max=MAX_PARALLEL, help="How many cases at a time.")
    ] = 4
    limit: Annotated[
        float, typer.Option("--limit", min=1, metavar="SECONDS", help="Time that one case may take.")
    ] = 120.0
    show: Annotated[bool, typer.Option("--list", help="List the cases and exit.")] = False
    coverage: Annotated[
        bool,
        typer.Option(
            "--coverage", help="List the fields of requests and the cases that cover them, and exit."
        ),
    ] = False
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove what killed runs have left behind, and exit.")
    ] = False
    output: Output = Format.TABLE
    junit: Annotated[str, typer.Option(metavar="FILE", help="Write the results as JUnit's XML.")] = ""
    html: Annotated[str, typer.Option(metavar="FILE", help="Write the results as a page of HTML.")] = ""
    markdown: Annotated[str, typer.Option(metavar="FILE", help="Write the results as markdown.")] = ""
