"""What machines are made of here: QEMU, virtiofsd, the guest's files, and who runs its instructions."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass

from crib.backends.runtime_probe import find_program
from crib.host.ext4_files import MAKER
from crib.host.processes import ToolMissing, run
from crib.model.errors import Broken
from crib.model.paths import Paths
from crib.model.vm_settings import VmSettings
from crib.vm.acceleration import Acceleration, find_acceleration
from crib.vm.virtiofsd import find_virtiofsd

QEMU = "qemu-system-x86_64"
ARCHITECTURE = "amd64"
"""The only one that machines were built for (OCI's name)."""
ASK_TIME = 20.0
"""Seconds for a program to tell its version."""
MANIFEST = "manifest.json"
AGAIN = "run `crib vm build` again"
FILES = ("kernel", "initrd", "guest.erofs", MANIFEST)
"""Of a guest, as `crib vm build` names them."""
FORMAT = 2
"""Of the guests that this version boots."""
_MANIFEST_BYTES = 1 << 20
_VERSION = re.compile(r"\d+(?:\.\d+)+")


@dataclass(frozen=True, slots=True)
class Guest:
    """The directory that `crib vm build` has written."""

    directory: str
    kernel: str
    """Version of its kernel, as uname says."""


@dataclass(frozen=True, slots=True)
class MachineParts:
    """What every machine of a handler is made of."""

    qemu: str
    qemu_version: str
    virtiofsd: str
    virtiofsd_version: str
    guest: Guest
    acceleration: Acceleration
    mke2fs: str
    """What makes containers' disks."""

    def words(self, kind: str) -> str:
        """For people."""
        found = self.acceleration
        how = f"{found.name} ({found.why})" if found.why else found.name
        return f"QEMU {self.qemu_version} {kind}, {how}; Linux {self.guest.kernel}"


async def find_machine(settings: VmSettings, paths: Paths, architecture: str) -> MachineParts:
    """Broken, saying what to do, where something is missing; ToolMissing, OSError."""
    if architecture != ARCHITECTURE:
        raise Broken(f"machines of {architecture} are not built yet, only those of {ARCHITECTURE}")
    guest = read_guest(settings.guest or paths.guest)
    qemu = find_program(settings.qemu or QEMU)
    virtiofsd = settings.virtiofsd or find_virtiofsd()
    if not virtiofsd or shutil.which(virtiofsd) is None:
        raise ToolMissing(virtiofsd or "virtiofsd")
    mke2fs = find_program(MAKER)
    acceleration = await find_acceleration(settings.acceleration)
    if settings.acceleration == "kvm" and acceleration.name != "kvm":
        raise Broken(f'acceleration is "kvm", but {acceleration.why}')
    return MachineParts(
        qemu, await _version(qemu), virtiofsd, await _version(virtiofsd), guest, acceleration, mke2fs
    )


def read_guest(directory: str) -> Guest:
    """What is in the directory. Broken, naming the command that writes it. Blocks for local files."""
    for name in FILES:
        if not os.path.isfile(f"{directory}/{name}"):
            raise Broken(f"there is no guest in {directory} ({name} is missing): `crib vm build` makes one")
    try:
        with open(f"{directory}/{MANIFEST}", "rb") as file:
            document = json.loads(file.read(_MANIFEST_BYTES))
        number, kernel = document["format"], str(document["kernel"])
        sizes = {name: int(document["files"][name]["bytes"]) for name in FILES if name != MANIFEST}
    except (ValueError, KeyError, TypeError) as error:
        raise Broken(f"{directory}/{MANIFEST} is not understood: {error!r}; {AGAIN}") from error
    if number != FORMAT:
        raise Broken(f"the guest in {directory} has format {number!r}, not {FORMAT}; {AGAIN}")
    for name, size in sizes.items():
        if os.path.getsize(f"{directory}/{name}") != size:
            raise Broken(f"{directory}/{name} is not the file that was built: it has another size; {AGAIN}")
    return Guest(directory, kernel)


async def _version(program: str) -> str:
    said = await run((program, "--version"), timeout=ASK_TIME)
    found = _VERSION.search((said.stdout + said.stderr).decode("utf-8", "replace"))
    return found[0] if found else "unknown"
