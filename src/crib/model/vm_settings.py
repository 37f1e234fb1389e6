"""What the administrator can set of a handler of the kind `vm`, whose pods are virtual machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from crib.model.keys import LIVE, Between, OneOf, PathOrNone

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class VmSettings:
    """The table `vm` of a handler."""

    guest: PathOrNone = ""
    """Directory that `crib vm build` has written, with the guest's kernel and root; empty: DATA/vm."""
    qemu: str = ""
    """QEMU's program: a path, or a name found on PATH; empty: qemu-system-x86_64."""
    virtiofsd: PathOrNone = ""
    """The program that serves files to a guest; empty: where Debian has it, then PATH."""
    machine: Annotated[str, OneOf(("microvm", "q35"))] = "microvm"
    """QEMU's machine type: microvm starts faster, q35 is what machines of clouds usually are."""
    acceleration: Annotated[str, OneOf(("auto", "kvm", "tcg"))] = "auto"
    """kvm; tcg (emulation, 10 to 20 times slower); or auto: kvm where a probe of 2 s says that it works, else
    tcg. With tcg nothing opens /dev/kvm."""
    memory: Annotated[int, Between(32 * MIB, 1 << 44), LIVE] = 256 * MIB
    """Bytes of memory for the containers of a pod without a memory limit."""
    own_memory: Annotated[int, Between(32 * MIB, 1 << 40), LIVE] = 96 * MIB
    """Bytes that a guest has beyond its pod's memory limit, for its kernel, agent and caches."""
    cpus: Annotated[int, Between(1, 240), LIVE] = 1
    """CPUs of a pod without a CPU limit. With one the limit is rounded up."""
    disk: Annotated[int, Between(16 * MIB, 1 << 44), LIVE] = 10 << 30
    """Bytes of the disk that each container has for what it writes to its root: a sparse file, which takes as
    much of the node's disk as was written."""
    boot_timeout: Annotated[float, Between(1, 600)] = 60.0
    """Seconds from the start of a machine until its agent must answer."""
