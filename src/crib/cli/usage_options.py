"""The arguments of `crib top`, `crib stats`, `crib df` and `crib why`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.forms import Format, Output

MIN_INTERVAL, MAX_INTERVAL = 0.5, 60.0
"""Seconds between two readings."""


class Layout(StrEnum):
    """What has a row."""

    TREE = "tree"
    PODS = "pods"
    CONTAINERS = "containers"


class Sort(StrEnum):
    """By what rows are ordered: the largest first, names from A."""

    CPU = "cpu"
    MEMORY = "memory"
    IO = "io"
    NETWORK = "network"
    PRESSURE = "pressure"
    DISK = "disk"
    PIDS = "pids"
    NAME = "name"


_Interval = Annotated[
    float,
    typer.Option(
        "--interval",
        "-i",
        min=MIN_INTERVAL,
        max=MAX_INTERVAL,
        metavar="SECONDS",
        help="Time between two readings; rates are over this time.",
    ),
]


Json = Annotated[bool, typer.Option("--json", help="The same as --output json.")]


@dataclass(frozen=True)
class TopOptions:
    once: Annotated[bool, typer.Option("--once", help="Print one table and exit, as without a terminal.")] = (
        False
    )
    layout: Annotated[
        Layout, typer.Option("--layout", "-l", help="Pods with their containers, or only one of them.")
    ] = Layout.TREE
    sort: Annotated[Sort, typer.Option("--sort", "-s", help="By what to sort, the largest first.")] = Sort.CPU
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="The smallest first.")] = False
    filter: Annotated[
        str,
        typer.Option(
            "--filter",
            "-f",
            metavar="WORDS",
            help="Only pods and containers with all of these words in their name, or as the beginning of "
            "their id.",
        ),
    ] = ""
    interval: _Interval = 2.0
    output: Output = Format.TABLE
    json: Json = False


@dataclass(frozen=True)
class StatsOptions:
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="POD|CONTAINER",
            help="A pod (NAME, NAMESPACE/NAME or the beginning of its id), or the beginning of a container's "
            "id. Default: everything.",
        ),
    ] = None
    container: Annotated[
        str, typer.Option("--container", "-c", metavar="NAME", help="The container in the pod.")
    ] = ""
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show them again at each interval.")] = False
    interval: _Interval = 2.0
    output: Output = Format.TABLE
    json: Json = False


@dataclass(frozen=True)
class DfOptions:
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show each image, and each pod with its containers.")
    ] = False
    output: Output = Format.TABLE
    json: Json = False


@dataclass(frozen=True)
class WhyOptions:
    target: Annotated[
        str,
        typer.Argument(
            metavar="POD|CONTAINER",
            help="A pod (NAME or NAMESPACE/NAME) or the beginning of a container's id, removed ones too.",
        ),
    ]
    container: Annotated[
        str, typer.Option("--container", "-c", metavar="NAME", help="The container in the pod.")
    ] = ""
    every: Annotated[bool, typer.Option("--all", "-a", help="Every attempt, not only the last one.")] = False
    output: Output = Format.TABLE
    json: Json = False
