"""The arguments of `crib config`, `crib reload` and `crib setup`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from crib.cli.forms import Format, Output

File = Annotated[
    str,
    typer.Option(
        "--file", "-f", metavar="FILE", help="This file, its conf.d and CRIBD_ variables; needs no daemon."
    ),
]


@dataclass(frozen=True)
class ReloadOptions:
    output: Output = Format.TABLE


@dataclass(frozen=True)
class ConfigShowOptions:
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY", help="Only these keys, and those below them: network, log.level."),
    ] = None
    file: File = ""
    changed: Annotated[bool, typer.Option("--changed", help="Only keys that something sets.")] = False
    output: Output = Format.TABLE


@dataclass(frozen=True)
class ConfigDiffOptions:
    file: File = ""
    defaults: Annotated[bool, typer.Option("--defaults", help="Compare with the defaults instead.")] = False
    output: Output = Format.TABLE


@dataclass(frozen=True)
class ConfigCheckOptions:
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Its conf.d directory and CRIBD_ variables count, too.")
    ] = "/etc/crib/config.toml"


@dataclass(frozen=True)
class ConfigImportOptions:
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Theirs; without one /etc/containerd/config.toml or /etc/crio/crio.conf."
        ),
    ] = ""


@dataclass(frozen=True)
class ConfigPrintOptions:
    pass


@dataclass(frozen=True)
class SetupOptions:
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="Judge by this configuration of cribd.")
    ] = ""
    all: Annotated[bool, typer.Option("--all", "-a", help="Show what is all right, too.")] = False
    write: Annotated[
        bool,
        typer.Option("--write", help="Write crictl.yaml and a drop-in for the kubelet's unit; asks first."),
    ] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --write: do not ask.")] = False
    output: Output = Format.TABLE
