"""The arguments of `crib pods` and `crib ps`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from crib.cli.forms import Format, ListOutput, Quiet

_Selector = Annotated[
    list[str] | None,
    typer.Option(
        "--selector",
        "--label",
        "-l",
        metavar="LABELS",
        help="Only with these labels: KEY=VALUE, KEY!=VALUE, KEY or !KEY, with commas between; may be "
        "repeated. (-l as of kubectl; what crictl and docker call -l is --latest.)",
    ),
]
_Namespace = Annotated[
    str,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="Only pods of this namespace. (-n as of kubectl; what crictl and docker call -n is --last.)",
    ),
]
_Name = Annotated[
    str, typer.Option("--name", metavar="PATTERN", help="Only names in which this regular expression fits.")
]
_Id = Annotated[str, typer.Option("--id", metavar="ID", help="Only ids that begin so.")]
_Last = Annotated[
    int, typer.Option("--last", min=0, metavar="N", help="Only the last N that were made, in any state.")
]
_Latest = Annotated[bool, typer.Option("--latest", help="Only the last one that was made, in any state.")]
_NoTrunc = Annotated[bool, typer.Option("--no-trunc", help="Ids in full.")]
_Watch = Annotated[
    bool,
    typer.Option(
        "--watch", "-w", help="Show the list again, every 2 s on a terminal, else when it has changed."
    ),
]
_Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="KEY=VALUE",
        help="The same filters as docker writes them: name, label, status, id, and for containers ancestor "
        "and pod; may be repeated.",
    ),
]


@dataclass(frozen=True)
class PodsOptions:
    output: ListOutput = Format.TABLE
    quiet: Quiet = False
    namespace: _Namespace = ""
    selectors: _Selector = None
    name: _Name = ""
    state: Annotated[
        str, typer.Option("--state", "-s", metavar="STATE", help="Only pods that are ready, or notready.")
    ] = ""
    id: _Id = ""
    last: _Last = 0
    latest: _Latest = False
    filters: _Filters = None
    no_trunc: _NoTrunc = False
    watch: _Watch = False


@dataclass(frozen=True)
class PsOptions:
    pod: Annotated[
        str | None,
        typer.Argument(
            metavar="POD", help="Only containers of this pod: NAME, NAMESPACE/NAME or the beginning of an id."
        ),
    ] = None
    every: Annotated[bool, typer.Option("--all", "-a", help="Include containers that are not running.")] = (
        False
    )
    output: ListOutput = Format.TABLE
    quiet: Quiet = False
    namespace: _Namespace = ""
    selectors: _Selector = None
    name: _Name = ""
    state: Annotated[
        str,
        typer.Option(
            "--state",
            "-s",
            metavar="STATE",
            help="Only containers that are created, running, exited or unknown.",
        ),
    ] = ""
    image: Annotated[
        str, typer.Option("--image", metavar="IMAGE", help="Only containers of this image, by name or id.")
    ] = ""
    of_pod: Annotated[
        str, typer.Option("--pod", "-p", metavar="POD", help="The same as the argument POD.")
    ] = ""
    id: _Id = ""
    last: _Last = 0
    latest: _Latest = False
    filters: _Filters = None
    no_trunc: _NoTrunc = False
    watch: _Watch = False
