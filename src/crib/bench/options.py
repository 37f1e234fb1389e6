"""The arguments of `crib bench` and its commands, as values; their help texts are for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer


class BenchPart(StrEnum):
    """What can be measured."""

    OPS = "ops"
    LIFECYCLE = "lifecycle"
    SANDBOXES = "sandboxes"


class StreamPart(StrEnum):
    """What of streams can be measured."""

    ROUND_TRIPS = "round-trips"
    FLOODS = "floods"
    CROWD = "crowd"


class CrowdPart(StrEnum):
    """What a crowd of callers can do."""

    LIVES = "lives"
    LISTS = "lists"


_Endpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        "-e",
        metavar="NAME=unix:///PATH",
        help="A runtime to measure; give more of them to measure them in turn. Default: crib's own.",
    ),
]
_Pids = Annotated[
    list[str] | None,
    typer.Option("--pid", metavar="NAME=PID", help="A runtime's process, where its socket does not tell it."),
]
_Json = Annotated[str, typer.Option("--json", metavar="FILE", help="Also write figures and samples there.")]


@dataclass(frozen=True)
class BenchOptions:
    endpoints: _Endpoints = None
    image: Annotated[
        str,
        typer.Option(
            help="The containers' image, with sleep and true in it. The default is made from busybox."
        ),
    ] = "localhost/crib-bench:latest"
    number: Annotated[int, typer.Option("-n", min=1, max=10_000, help="Pods for the single calls.")] = 30
    rounds: Annotated[
        int, typer.Option(min=1, max=100, help="Rounds of lives and sandboxes by the dozen.")
    ] = 3
    only: Annotated[list[BenchPart] | None, typer.Option(help="Measure only this part.")] = None
    handler: Annotated[
        str, typer.Option(help="The RuntimeClass handler to use; NAME=HANDLER for one runtime.")
    ] = ""
    pods: Annotated[
        int, typer.Option(min=0, max=2000, help="Also: memory with so many pods at once; 100 is usual.")
    ] = 0
    floors: Annotated[
        bool, typer.Option("--floors", help="Also: crun and conmon alone, in the same run. Needs root.")
    ] = False
    cni: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Also: the CNI plugins of this .conflist alone, in the same run. Needs root.",
        ),
    ] = ""
    cni_bin: Annotated[list[str] | None, typer.Option(metavar="DIRECTORY", help="Where CNI plugins are.")] = (
        None
    )
    cgroup_parent: Annotated[
        str,
        typer.Option(
            help="The pods' cgroup parent; {uid} is replaced, in a slice's name as a kubelet writes it. "
            "Default: the runtime decides."
        ),
    ] = ""
    seccomp: Annotated[
        bool,
        typer.Option(
            "--seccomp", help="Containers get the runtime's seccomp profile (kubelet --seccomp-default)."
        ),
    ] = False
    pids: _Pids = None
    json: _Json = ""


@dataclass(frozen=True)
class PullBenchOptions:
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Images to pull; those of a registry on this node say most."),
    ]
    endpoints: _Endpoints = None
    number: Annotated[int, typer.Option("-n", min=1, max=1000, help="Rounds; each pulls twice.")] = 5
    pids: _Pids = None
    json: _Json = ""


@dataclass(frozen=True)
class StreamsOptions:
    endpoints: _Endpoints = None
    image: Annotated[
        str,
        typer.Option(
            help="The container's image, with busybox's sh, cat, dd and nc. The default is made from busybox."
        ),
    ] = "localhost/crib-bench:latest"
    number: Annotated[int, typer.Option("-n", min=1, max=10_000, help="Round trips of each kind.")] = 30
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Floods and crowds of each kind.")] = 3
    size: Annotated[
        int,
        typer.Option(min=1, max=100_000, help="MB of a flood out of a container; into it goes a quarter."),
    ] = 1000
    sessions: Annotated[int, typer.Option(min=1, max=500, help="Sessions at once.")] = 100
    only: Annotated[list[StreamPart] | None, typer.Option(help="Measure only this part.")] = None
    pids: _Pids = None
    json: _Json = ""


@dataclass(frozen=True)
class CrowdOptions:
    endpoints: _Endpoints = None
    image: Annotated[
        str, typer.Option(help="The containers' image, with sleep in it. The default is made from busybox.")
    ] = "localhost/crib-bench:latest"
    callers: Annotated[
        list[int] | None,
        typer.Option(min=1, max=1000, help="Callers at once; give more of them. Default: 10, 100 and 200."),
    ] = None
    number: Annotated[
        int, typer.Option("-n", min=1, max=100_000, help="Lives of a round, at least one a caller.")
    ] = 400
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long a crowd lists.")] = 10.0
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds of each kind.")] = 1
    handler: Annotated[str, typer.Option(help="The RuntimeClass handler to use.")] = ""
    only: Annotated[list[CrowdPart] | None, typer.Option(help="Measure only this part.")] = None
    pids: _Pids = None
    json: _Json = ""
