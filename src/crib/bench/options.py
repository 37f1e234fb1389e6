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
        help="A runtime to measure. Repeat it to measure several in turn. Default: crib.",
    ),
]
_Pids = Annotated[
    list[str] | None,
    typer.Option(
        "--pid", metavar="NAME=PID", help="The process of a runtime, if its socket does not reveal it."
    ),
]
_Json = Annotated[
    str, typer.Option("--json", metavar="FILE", help="Also write figures and samples to this file.")
]

_Html = Annotated[
    str, typer.Option("--html", metavar="FILE", help="Also write a page with charts to this file.")
]
_Png = Annotated[
    str,
    typer.Option(
        "--png", metavar="FILE", help="Also write a picture of that page; Chromium or Chrome makes it."
    ),
]


@dataclass(frozen=True)
class BenchOptions:
    endpoints: _Endpoints = None
    image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE",
            help="The containers' image; it must have sleep and true. The default is made from busybox.",
        ),
    ] = "localhost/crib-bench:latest"
    number: Annotated[
        int, typer.Option("-n", min=1, max=10_000, help="Number of pods for the single calls.")
    ] = 30
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds of concurrent lives and sandboxes.")] = 3
    only: Annotated[list[BenchPart] | None, typer.Option(help="Measure only this part.")] = None
    handler: Annotated[
        str, typer.Option(help="The RuntimeClass handler to use; NAME=HANDLER for one runtime.")
    ] = ""
    pods: Annotated[
        int,
        typer.Option(min=0, max=2000, help="Also measure memory with this many pods at once; 100 is usual."),
    ] = 0
    floors: Annotated[
        bool,
        typer.Option("--floors", help="Also measure crun and conmon alone, in the same run. Needs root."),
    ] = False
    cni: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Also measure the CNI plugins of this .conflist alone, in the same run. Needs root.",
        ),
    ] = ""
    cni_bin: Annotated[
        list[str] | None, typer.Option(metavar="DIRECTORY", help="Directory of the CNI plugins.")
    ] = None
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
            "--seccomp", help="Give containers the runtime's seccomp profile (as kubelet --seccomp-default)."
        ),
    ] = False
    pids: _Pids = None
    json: _Json = ""
    html: _Html = ""
    png: _Png = ""


@dataclass(frozen=True)
class PullBenchOptions:
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE", help="Images to pull; a registry on this node gives the most reliable figures."
        ),
    ]
    endpoints: _Endpoints = None
    number: Annotated[int, typer.Option("-n", min=1, max=1000, help="Rounds; each pulls twice.")] = 5
    pids: _Pids = None
    json: _Json = ""
    html: _Html = ""
    png: _Png = ""


@dataclass(frozen=True)
class StreamsOptions:
    endpoints: _Endpoints = None
    image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE",
            help="The container's image; it must have busybox's sh, cat, dd and nc. "
            "The default is made from busybox.",
        ),
    ] = "localhost/crib-bench:latest"
    number: Annotated[int, typer.Option("-n", min=1, max=10_000, help="Round trips of each kind.")] = 30
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Floods and crowds of each kind.")] = 3
    size: Annotated[
        int,
        typer.Option(
            min=1,
            max=100_000,
            metavar="MB",
            help="MB of a flood out of a container; a flood into it has a quarter.",
        ),
    ] = 1000
    sessions: Annotated[int, typer.Option(min=1, max=500, help="Sessions at once.")] = 100
    only: Annotated[list[StreamPart] | None, typer.Option(help="Measure only this part.")] = None
    pids: _Pids = None
    json: _Json = ""
    html: _Html = ""
    png: _Png = ""


@dataclass(frozen=True)
class CrowdOptions:
    endpoints: _Endpoints = None
    image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE",
            help="The containers' image; it must have sleep. The default is made from busybox.",
        ),
    ] = "localhost/crib-bench:latest"
    callers: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=1000, help="Number of concurrent callers; repeatable. Default: 10, 100 and 200."
        ),
    ] = None
    number: Annotated[
        int, typer.Option("-n", min=1, max=100_000, help="Lives per round, at least one per caller.")
    ] = 400
    seconds: Annotated[
        float, typer.Option(min=0.1, max=600, metavar="SECONDS", help="Duration of the lists.")
    ] = 10.0
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds of each kind.")] = 1
    handler: Annotated[str, typer.Option(help="The RuntimeClass handler to use.")] = ""
    only: Annotated[list[CrowdPart] | None, typer.Option(help="Measure only this part.")] = None
    pids: _Pids = None
    json: _Json = ""
    html: _Html = ""
    png: _Png = ""


@dataclass(frozen=True)
class DayOptions:
    endpoints: _Endpoints = None
    image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE",
            help="The containers' image; it must have sleep and true. The default is made from busybox.",
        ),
    ] = "localhost/crib-bench:latest"
    pods: Annotated[int, typer.Option(min=1, max=2000, help="Pods that run meanwhile.")] = 40
    seconds: Annotated[
        float, typer.Option(min=1, max=86_400, metavar="SECONDS", help="Duration for each runtime.")
    ] = 60.0
    probe: Annotated[
        float,
        typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Time between two commands in a container."),
    ] = 5.0
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds for each runtime.")] = 1
    handler: Annotated[str, typer.Option(help="The RuntimeClass handler to use.")] = ""
    pids: _Pids = None
    json: _Json = ""
    html: _Html = ""
    png: _Png = ""
