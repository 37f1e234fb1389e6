"""The arguments of `crib logs`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer


class LogStream(StrEnum):
    """What a line was written to."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True)
class LogsOptions:
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="POD|CONTAINER",
            help="Pods (NAME, NAMESPACE/NAME or the beginning of an id), or containers (as "
            "NAMESPACE/POD/CONTAINER, or the beginning of an id).",
        ),
    ] = None
    container: Annotated[
        str, typer.Option("--container", "-c", metavar="NAME", help="The container in each pod.")
    ] = ""
    all_containers: Annotated[
        bool, typer.Option("--all-containers", help="Every container of each pod, also init containers.")
    ] = False
    selector: Annotated[
        str,
        typer.Option(
            "--selector",
            "-l",
            metavar="LABELS",
            help="Pods with these labels: KEY=VALUE, KEY!=VALUE, KEY or !KEY, with commas between.",
        ),
    ] = ""
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="With --selector: only pods of this namespace.")
    ] = ""
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the attempt before the last one.")
    ] = False
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines until the container exits.")
    ] = False
    tail: Annotated[
        int, typer.Option("--tail", min=-1, metavar="N", help="Only the last N lines of each; -1: all.")
    ] = -1
    since: Annotated[
        str,
        typer.Option(
            "--since",
            "--since-time",
            metavar="TIME",
            help="Only lines since then: 90s, 10m, 2h (ago), or an RFC 3339 time.",
        ),
    ] = ""
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="Only lines up to then; see --since.")
    ] = ""
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Start each line with its time.")] = (
        False
    )
    prefix: Annotated[
        bool | None,
        typer.Option(
            "--prefix/--no-prefix",
            help="Whether each line begins with its container (default: with more than one).",
        ),
    ] = None
    stream: Annotated[
        LogStream | None, typer.Option("--stream", help="Only lines of this stream (default: both).")
    ] = None
