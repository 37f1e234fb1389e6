"""The commands of `crib vm` and their help."""

from __future__ import annotations

import typer

from crib.cli import vm_options as args
from crib.cli.command import command, group
from crib.cli.session import CliSession


def add_vm_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    vm = group("Make and try the guest that pods of a handler of kind vm run in.")
    app.add_typer(vm, name="vm", rich_help_panel=panel)
    command(vm, args.VmBuildOptions, panel)(build)
    command(vm, args.VmBootOptions, panel)(boot)


def build(session: CliSession, options: args.VmBuildOptions) -> None:
    """Make the guest of VM pods from what is installed on this node; needs no daemon.

    It has a kernel, an initrd, a root (python3, crun, busybox and what these load) and a manifest. The same
    node gives the same bytes. Pods that run keep the guest that they were started with.

    crib vm build --kernel linux-image-6.1.0-57-cloud-amd64_6.1.192-3_amd64.deb
    """
    from crib.cli import vm as work

    raise typer.Exit(work.build(options))


def boot(session: CliSession, options: args.VmBootOptions) -> None:
    """Boot the guest once, show how long each stage took, and end it; needs no daemon.

    Times are from the start of qemu on. MEMORY is what qemu has of its own, what it shares with other
    machines, and how much of the guest's memory was touched.
    """
    from crib.cli import vm as work

    raise typer.Exit(work.boot(options))
