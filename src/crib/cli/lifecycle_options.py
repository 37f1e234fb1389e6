"""The arguments of the commands that start, stop, change and remove pods and containers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

_Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="POD|CONTAINER",
        help="Pods (NAME, NAMESPACE/NAME or the beginning of an id), or containers (NAMESPACE/POD/CONTAINER "
        "or the beginning of an id).",
    ),
]
_SomeTargets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="POD|CONTAINER",
        help="Pods (NAME, NAMESPACE/NAME or the beginning of an id), or containers (NAMESPACE/POD/CONTAINER "
        "or the beginning of an id).",
    ),
]
_Container = Annotated[
    str, typer.Option("--container", "-c", metavar="NAME", help="Only this container of each pod.")
]
_Grace = Annotated[
    int | None,
    typer.Option(
        "--time",
        "--timeout",
        "-t",
        min=0,
        metavar="SECONDS",
        help="Seconds before SIGKILL (default: the pod's grace period).",
    ),
]


@dataclass(frozen=True)
class StartOptions:
    targets: _Targets
    container: _Container = ""


@dataclass(frozen=True)
class StopOptions:
    targets: _SomeTargets = None
    container: _Container = ""
    time: _Grace = None
    every: Annotated[bool, typer.Option("--all", "-a", help="Every pod.")] = False


@dataclass(frozen=True)
class RestartOptions:
    targets: _Targets
    container: _Container = ""
    time: _Grace = None


@dataclass(frozen=True)
class KillOptions:
    targets: _Targets
    container: _Container = ""
    signal: Annotated[
        str, typer.Option("--signal", "-s", metavar="SIGNAL", help="KILL is all that the CRI can carry.")
    ] = "KILL"


@dataclass(frozen=True)
class RmOptions:
    targets: _SomeTargets = None
    container: _Container = ""
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Remove what still runs, too: kill it first.")
    ] = False
    every: Annotated[bool, typer.Option("--all", "-a", help="Every pod.")] = False


class Aim(StrEnum):
    """What is waited for."""

    STOPPED = "stopped"
    RUNNING = "running"
    EXISTS = "exists"
    REMOVED = "removed"


@dataclass(frozen=True)
class WaitOptions:
    targets: _Targets
    container: _Container = ""
    aim: Annotated[
        Aim,
        typer.Option(
            "--for",
            "--condition",
            help="stopped: it has exited. running: it runs. exists: it is there, running or not. removed: it "
            "is gone.",
        ),
    ] = Aim.STOPPED
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout", metavar="TIME", help="Give up after this time, for example 30 (seconds) or 5m."
        ),
    ] = ""


@dataclass(frozen=True)
class UpdateOptions:
    targets: _Targets
    container: _Container = ""
    cpus: Annotated[
        str,
        typer.Option(
            "--cpus", "--cpu", metavar="N", help="How many cores it may use: 1.5, or 1500m as in Kubernetes."
        ),
    ] = ""
    cpu_period: Annotated[
        int, typer.Option("--cpu-period", metavar="MICROSECONDS", help="CFS period, with --cpu-quota.")
    ] = 0
    cpu_quota: Annotated[
        int,
        typer.Option("--cpu-quota", metavar="MICROSECONDS", help="CFS quota in each period; -1: no limit."),
    ] = 0
    cpu_shares: Annotated[
        int,
        typer.Option("--cpu-shares", "--cpu-share", metavar="N", help="Weight against others (1024: one)."),
    ] = 0
    cpuset_cpus: Annotated[
        str, typer.Option("--cpuset-cpus", metavar="LIST", help="Only these CPUs: 0-3,8.")
    ] = ""
    cpuset_mems: Annotated[
        str, typer.Option("--cpuset-mems", metavar="LIST", help="Only these memory nodes: 0,1.")
    ] = ""
    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            "-m",
            metavar="BYTES",
            help="Memory limit: bytes, 512Mi as in Kubernetes, or 512m as in docker (k, m, g count in 1024).",
        ),
    ] = ""
    memory_swap: Annotated[
        str,
        typer.Option(
            "--memory-swap", metavar="BYTES", help="Limit of memory and swap together; -1: no limit."
        ),
    ] = ""
    pids: Annotated[
        int | None,
        typer.Option("--pids-limit", "--pids", min=-1, metavar="N", help="Limit of processes; -1: no limit."),
    ] = None
    oom_score_adj: Annotated[
        int,
        typer.Option(
            "--oom-score-adj",
            min=-1000,
            max=1000,
            metavar="N",
            help="OOM score from -1000 to 1000. The CRI takes 0 for no change.",
        ),
    ] = 0
