"""The arguments of each command, as values; their help texts are for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.forms import DocumentOutput, Format, Output


class Transport(StrEnum):
    """The protocol of streams."""

    AUTO = "auto"
    SPDY = "spdy"
    WEBSOCKET = "websocket"


_Target = Annotated[
    str,
    typer.Argument(
        metavar="POD|CONTAINER",
        help="A pod (NAME, NAMESPACE/NAME or the beginning of its id) or the beginning of a container's id.",
    ),
]
_Container = Annotated[
    str, typer.Option("--container", "-c", metavar="NAME", help="The container in the pod.")
]
_Stdin = Annotated[
    bool, typer.Option("--stdin", "--interactive", "-i", help="Send standard input to it, until it ends.")
]
_Transport = Annotated[
    Transport,
    typer.Option(
        "--transport", help="Protocol of the streams; auto is WebSocket, or SPDY for older runtimes."
    ),
]
_CaFile = Annotated[
    str,
    typer.Option(
        "--ca-file",
        metavar="FILE",
        help="PEM file of the CA that signed the runtime's certificate; not needed on this node.",
    ),
]


@dataclass(frozen=True)
class ExecOptions:
    target: _Target
    words: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command; put -- before it.")]
    container: _Container = ""
    timeout: Annotated[
        int,
        typer.Option(
            "--timeout",
            min=0,
            metavar="SECONDS",
            help="End the command after this time, and print its output then; 0 means never.",
        ),
    ] = 0
    stdin: _Stdin = False
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="Give the command a terminal, connected to this one.")
    ] = False
    user: Annotated[
        str,
        typer.Option(
            "--user",
            "-u",
            metavar="USER[:GROUP]",
            help="Run as this user of the container, by name or number. Only crib can do this.",
        ),
    ] = ""
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            "-e",
            metavar="KEY[=VALUE]",
            help="Set a variable, without =VALUE as it is here. May be repeated. Only crib can do this.",
        ),
    ] = None
    env_file: Annotated[
        list[str] | None,
        typer.Option(
            "--env-file",
            metavar="FILE",
            help="Set the variables of this file: lines KEY=VALUE or KEY; those of --env count more. "
            "May be repeated. Only crib can do this.",
        ),
    ] = None
    workdir: Annotated[
        str,
        typer.Option("--workdir", "-w", metavar="DIR", help="Run in this directory. Only crib can do this."),
    ] = ""
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            "-d",
            help="Return once the command runs; its output is dropped. Only crib can do this.",
        ),
    ] = False
    sync: Annotated[
        bool,
        typer.Option("--sync", "-s", help="Without a stream (ExecSync): its output comes at the end."),
    ] = False
    transport: _Transport = Transport.AUTO
    ca_file: _CaFile = ""


@dataclass(frozen=True)
class AttachOptions:
    target: _Target
    container: _Container = ""
    stdin: _Stdin = False
    tty: Annotated[
        bool | None,
        typer.Option(
            "--tty/--no-tty",
            "-t",
            help="Whether the container has a terminal. By default crib asks the runtime.",
        ),
    ] = None
    detach_keys: Annotated[
        str,
        typer.Option(
            "--detach-keys", metavar="KEYS", help="Keys that detach from a terminal; empty for none."
        ),
    ] = "ctrl-p,ctrl-q"
    transport: _Transport = Transport.AUTO
    ca_file: _CaFile = ""


@dataclass(frozen=True)
class ForwardOptions:
    pod: Annotated[str, typer.Argument(metavar="POD", help="NAME, NAMESPACE/NAME or the beginning of an id.")]
    ports: Annotated[
        list[str],
        typer.Argument(
            metavar="[LOCAL:]REMOTE",
            help="REMOTE is PORT, udp:PORT or unix:CONTAINER:/PATH. Without LOCAL the local port is the "
            "same; with 0 or nothing before the colon it is a free one.",
        ),
    ]
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS", help="The local address to listen on.")
    ] = "127.0.0.1"
    transport: _Transport = Transport.AUTO
    ca_file: _CaFile = ""


@dataclass(frozen=True)
class CopyOptions:
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A local path, POD|CONTAINER:PATH, or - for a tar archive on standard input.",
        ),
    ]
    destination: Annotated[
        str,
        typer.Argument(metavar="DESTINATION", help="Like SOURCE; - writes a tar archive to standard output."),
    ]
    container: _Container = ""
    max_bytes: Annotated[
        int,
        typer.Option(
            "--max-bytes",
            min=0,
            metavar="N",
            help="Copy at most this much from a container; 0 means no limit.",
        ),
    ] = 0
    transport: _Transport = Transport.AUTO
    ca_file: _CaFile = ""


@dataclass(frozen=True)
class PullOptions:
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="For example docker.io/library/nginx:1.27.")
    ]
    platform: Annotated[
        str,
        typer.Option(
            "--platform",
            metavar="OS/ARCH[/VARIANT]",
            help="Pull for this platform instead of the node's, for example linux/arm64/v8.",
        ),
    ] = ""
    user: Annotated[
        str,
        typer.Option("--user", "-u", metavar="NAME", help="Log in as this user; needs --password-stdin."),
    ] = ""
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the user's password from standard input.")
    ] = False
    identity_token_stdin: Annotated[
        bool,
        typer.Option("--identity-token-stdin", help="Read an OAuth2 refresh token from standard input."),
    ] = False
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Follow a pull that another client began, without starting one."),
    ] = False


@dataclass(frozen=True)
class ExplainOptions:
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="For example docker.io/library/nginx:1.27.")]
    output: Output = Format.TABLE


@dataclass(frozen=True)
class CheckOptions:
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE", help="Names, digests or the beginnings of ids. Default: every image."
        ),
    ] = None
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch damaged layers again; containers keep running.")
    ] = False
    output: Output = Format.TABLE


class ArchiveFormat(StrEnum):
    """What an export writes."""

    OCI = "oci"
    DOCKER = "docker"


@dataclass(frozen=True)
class ExportOptions:
    path: Annotated[str, typer.Argument(metavar="PATH", help="The archive to write; it must not exist yet.")]
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Names, digests or the beginnings of ids.")
    ]
    format: Annotated[
        ArchiveFormat,
        typer.Option("--format", help="An OCI image layout, or what docker load reads."),
    ] = ArchiveFormat.OCI


@dataclass(frozen=True)
class ImportOptions:
    path: Annotated[
        str, typer.Argument(metavar="ARCHIVE", help="An OCI layout (tar or directory) or a docker-archive.")
    ]
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="Give the image this name instead of those in the archive."
        ),
    ] = None


@dataclass(frozen=True)
class InspectOptions:
    target: Annotated[
        str, typer.Argument(metavar="POD|CONTAINER|IMAGE", help="A name or the beginning of an id.")
    ]
    container: _Container = ""
    output: DocumentOutput = Format.YAML


ExtraFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--from", metavar="FILE", help="Take ConfigMaps, Secrets and claims from this file; may be repeated."
    ),
]


@dataclass(frozen=True)
class ExplainSpecOptions:
    target: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|POD|CONTAINER",
            help="A file with Kubernetes pods (- means standard input), a pod, or the beginning of an id.",
        ),
    ]
    container: _Container = ""
    output: Output = Format.TABLE
    extra: ExtraFiles = None


@dataclass(frozen=True)
class InfoOptions:
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="All that the runtime found out about this node.")
    ] = False
    output: Output = Format.TABLE


@dataclass(frozen=True)
class NetworkListOptions:
    output: Output = Format.TABLE


@dataclass(frozen=True)
class NetworkInspectOptions:
    pod: Annotated[str, typer.Argument(metavar="POD", help="NAME, NAMESPACE/NAME or the beginning of an id.")]
    output: Output = Format.TABLE


@dataclass(frozen=True)
class NetworkCheckOptions:
    pods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="POD", help="Only these pods: NAME, NAMESPACE/NAME or the beginning of an id."
        ),
    ] = None
    repair: Annotated[bool, typer.Option("--repair", help="Make the network of a damaged pod again.")] = False
    output: Output = Format.TABLE


@dataclass(frozen=True)
class NetworkGcOptions:
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            "-a",
            help="Include addresses and ports that another runtime may hold in a network of the same name. "
            "Its running pods would lose them.",
        ),
    ] = False


@dataclass(frozen=True)
class NetworkRemoveOptions:
    """None."""
