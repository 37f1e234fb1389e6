"""The arguments of `crib timeline` and `crib events`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.forms import Format, LineOutput, Output


class Slowest(StrEnum):
    """What the slowest are of."""

    PODS = "pods"
    STAGES = "stages"


@dataclass(frozen=True)
class TimelineOptions:
    pods: Annotated[
        list[str] | None,
        typer.Argument(metavar="POD", help="NAME, NAMESPACE/NAME or the beginning of an id."),
    ] = None
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare two pods, stage by stage: --compare A B.")
    ] = False
    slowest: Annotated[
        Slowest | None,
        typer.Option("--slowest", help="The slowest starts of pods, or the slowest stages, of all kept."),
    ] = None
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="With --slowest: how many.")] = 10
    html: Annotated[
        str, typer.Option("--html", metavar="FILE", help="Write a page to open in a browser.")
    ] = ""
    json: Annotated[bool, typer.Option("--json", help="The same as --output json.")] = False
    output: Output = Format.TABLE


class EventSort(StrEnum):
    """What an event is about."""

    CONTAINER = "container"
    POD = "pod"
    IMAGE = "image"
    NETWORK = "network"
    NODE = "node"


@dataclass(frozen=True)
class EventsOptions:
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those to come.")] = False
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="CURSOR|TIME",
            help="Only events after this number, or since a time: 90s, 10m, 2h (ago), or an RFC 3339 time.",
        ),
    ] = ""
    kinds: Annotated[
        list[EventSort] | None,
        typer.Option("--kind", "-k", help="Only this kind; may be repeated."),
    ] = None
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Only pods of this namespace.")] = ""
    pod: Annotated[
        str,
        typer.Option("--pod", "-p", help="Only this pod: NAME, NAMESPACE/NAME or part of an id."),
    ] = ""
    container: Annotated[
        str,
        typer.Option("--container", "-c", help="Only this container: its name or the beginning of its id."),
    ] = ""
    output: LineOutput = Format.TABLE
    json: Annotated[
        bool, typer.Option("--json", help="The same as --output json: a line for each event.")
    ] = False
