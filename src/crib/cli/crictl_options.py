"""The arguments of commands under the names that crictl has for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from crib.cli.forms import DocumentOutput, Format

_PodConfig = Annotated[
    str, typer.Argument(metavar="POD-CONFIG", help="A PodSandboxConfig of the CRI, as JSON or YAML.")
]
_ContainerConfig = Annotated[
    str, typer.Argument(metavar="CONTAINER-CONFIG", help="A ContainerConfig of the CRI, as JSON or YAML.")
]
_Handler = Annotated[
    str,
    typer.Option("--runtime", "-r", metavar="HANDLER", help="The runtime handler, if not the default one."),
]


@dataclass(frozen=True)
class RunpOptions:
    config: _PodConfig
    handler: _Handler = ""


@dataclass(frozen=True)
class CreateOptions:
    pod: Annotated[str, typer.Argument(metavar="POD", help="NAME, NAMESPACE/NAME or the beginning of an id.")]
    container_config: _ContainerConfig
    pod_config: _PodConfig
    pull: Annotated[
        bool, typer.Option("--with-pull/--no-pull", help="Pull the image first if it is not on the node.")
    ] = False


@dataclass(frozen=True)
class InspectpOptions:
    pods: Annotated[
        list[str], typer.Argument(metavar="POD", help="NAME, NAMESPACE/NAME or the beginning of an id.")
    ]
    output: DocumentOutput = Format.JSON


@dataclass(frozen=True)
class InspectiOptions:
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Names, digests or the beginnings of ids.")
    ]
    output: DocumentOutput = Format.JSON


@dataclass(frozen=True)
class DocumentOptions:
    output: DocumentOutput = Format.JSON


@dataclass(frozen=True)
class VersionOptions:
    """None."""


@dataclass(frozen=True)
class UpdateRuntimeConfigOptions:
    pod_cidr: Annotated[
        str, typer.Option("--pod-cidr", "-p", metavar="CIDR", help="The node's range of pod addresses.")
    ] = ""
