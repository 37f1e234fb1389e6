"""How much memory and how many CPUs a pod's machine has. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from crib.model.sandbox import Resources
from crib.model.vm_settings import MIB, VmSettings

HOST_MEMORY = 128 * MIB
"""Bytes that QEMU, virtiofsd and the shim take for one machine, beyond its memory (docs/vm.md: figures)."""
_PERIOD = 100_000
"""Microseconds: the kernel's default."""


@dataclass(frozen=True, slots=True)
class MachineSize:
    """Of a machine; `memory` in bytes, a multiple of a MiB."""

    memory: int
    cpus: int


def machine_size(resources: Resources | None, settings: VmSettings, host_cpus: int) -> MachineSize:
    """For a pod whose containers may use `resources` together. More CPUs than the host has are no use."""
    limit = resources.memory_limit_in_bytes if resources is not None else 0
    memory = settings.own_memory + (limit if limit > 0 else settings.memory)
    return MachineSize(-(-memory // MIB) * MIB, max(1, min(_cpus(resources) or settings.cpus, host_cpus)))


def _cpus(resources: Resources | None) -> int:
    """The limit, rounded up; 0 for none."""
    if resources is None or resources.cpu_quota <= 0:
        return 0
    return -(-resources.cpu_quota // (resources.cpu_period or _PERIOD))


def memory_for_containers(size: MachineSize, settings: VmSettings) -> int:
    """Bytes that one container's limit may be at most."""
    return size.memory - settings.own_memory


def machine_overhead(settings: VmSettings) -> Resources:
    """What a machine takes beyond its containers: the guest's own memory, and the programs of the host."""
    return Resources(
        cpu_period=_PERIOD, cpu_quota=_PERIOD // 10, memory_limit_in_bytes=settings.own_memory + HOST_MEMORY
    )
