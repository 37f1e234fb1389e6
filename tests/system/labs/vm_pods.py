"""cribd whose pods are virtual machines, under emulation: nothing opens a /dev/kvm, which may hang."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from crib.backends.vm.handler import VmHandler
from crib.client.pods import Pod
from crib.model.settings import HandlerSettings
from crib.model.vm_settings import VmSettings
from tests.system.labs.daemon import Cribd
from tests.system.labs.shim_setup import ShimLab, lab_of
from tests.system.labs.vm_guest import guest_image

VM_SECONDS = 300.0
"""Seconds for a pod on a busy machine; an idle one takes 3 s."""


def vm_table(**keys: object) -> str:
    """A handler `vm`, as lines of the configuration. Skips the test where no guest can be made."""
    made = {"guest": f'"{guest_image()}"', "acceleration": '"tcg"', "boot_timeout": VM_SECONDS, **keys}
    return '[handlers.vm]\nkind = "vm"\n[handlers.vm.vm]\n' + "".join(
        f"{name} = {value}\n" for name, value in made.items()
    )


def default_vm(**keys: object) -> str:
    """Lines of the configuration's top that make machines of all pods."""
    return f'default_handler = "vm"\n{vm_table(**keys)}'


@contextlib.asynccontextmanager
async def vm_lab() -> AsyncIterator[ShimLab]:
    """A private handler of kind `vm`, without a daemon."""
    settings = VmSettings(guest=str(guest_image()), acceleration="tcg", boot_timeout=VM_SECONDS)
    handler = HandlerSettings(kind="vm", vm=settings)
    async with lab_of(VmHandler, handler, "crun", verb_timeout=VM_SECONDS) as lab:
        yield lab


def processes_of_pod(cribd: Cribd, pod: Pod) -> dict[str, list[int]]:
    """What runs for a pod on this host, by the program's name."""
    found: dict[str, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            cgroups = Path(f"/proc/{entry}/cgroup").read_text()
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            if f"{cribd.cgroup}/{pod.id}" in cgroups:
                name = "shim" if b"crib.vm.shim" in words else os.path.basename(words[0].decode())
                found.setdefault(name, []).append(int(entry))
    return found
