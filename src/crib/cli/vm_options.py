"""The arguments of `crib vm`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.forms import Format, Output

DEFAULT_GUEST = "/var/lib/crib/vm"


class MachineKind(StrEnum):
    """qemu's machines that a guest boots on."""

    MICROVM = "microvm"
    Q35 = "q35"


class Accelerator(StrEnum):
    """Who runs a guest's instructions."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class VmBuildOptions:
    kernel: Annotated[
        str,
        typer.Option(
            "--kernel",
            "-k",
            metavar="PATH",
            help="A kernel's package, or a directory with boot and lib/modules; without it the node's.",
        ),
    ] = ""
    destination: Annotated[
        str, typer.Option("--destination", "-d", metavar="DIR", help="Where the guest is put.")
    ] = DEFAULT_GUEST
    module: Annotated[
        list[str] | None,
        typer.Option("--module", metavar="NAME", help="A module of the kernel that pods need as well."),
    ] = None
    output: Output = Format.TABLE


@dataclass(frozen=True)
class VmBootOptions:
    guest: Annotated[str, typer.Argument(metavar="DIR", help="The guest that crib vm build has made.")] = (
        DEFAULT_GUEST
    )
    machine: Annotated[MachineKind, typer.Option("--machine", help="qemu's machine.")] = MachineKind.MICROVM
    acceleration: Annotated[
        Accelerator, typer.Option("--acceleration", help="auto: KVM where it works, else emulation (tcg).")
    ] = Accelerator.AUTO
    memory: Annotated[int, typer.Option("--memory", "-m", metavar="MIB", help="The machine's memory.")] = 256
    cpus: Annotated[int, typer.Option("--cpus", metavar="NUMBER", help="Its CPUs.")] = 1
    limit: Annotated[
        float, typer.Option("--limit", metavar="SECONDS", help="Until the guest must have answered.")
    ] = 60.0
    output: Output = Format.TABLE
